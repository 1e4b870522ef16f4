"""Draws the picture of the README: four graphs, coloured by the level at which each node fires.

Run: ``mpnn run levels``; writes ``docs/levels.png``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import networkx as nx


def main(path: str = "docs/levels.png") -> Path:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from skimage.data import astronaut

    import mpnn
    from mpnn.draw import write_small
    from mpnn.images import superpixels

    figure = plt.figure(figsize=(12.5, 4.1), layout="constrained")
    places = figure.subplot_mosaic(
        [["chain", "grid", "superpixels"], ["tree", "grid", "superpixels"]],
        width_ratios=(1.35, 1, 1.05),
        height_ratios=(1, 2.4),
    )
    picture = astronaut()[:256, 100:356]
    pixels, grid = superpixels(picture, 120), nx.DiGraph(nx.grid_2d_graph(6, 6).edges)
    below, brightest = [(j, -i) for i, j in grid], mpnn.schedule.ordered(pixels.x.mean(1))
    chain = nx.path_graph(9, create_using=nx.DiGraph)
    tree = nx.balanced_tree(2, 4, create_using=nx.DiGraph)
    mpnn.draw(chain, "topological", ax=places["chain"], labels=False)
    mpnn.draw(tree.reverse(), "topological", ax=places["tree"], labels=False)
    mpnn.draw(grid, "topological", ax=places["grid"], layout=below, labels=False)
    mpnn.draw(pixels, brightest, ax=places["superpixels"], image=picture, labels=False)
    titles = {
        "chain": "chain: LSTM",
        "tree": "tree: Tree-LSTM",
        "grid": "grid: Grid LSTM",
        "superpixels": "superpixels, brightest first: Graph LSTM",
    }
    for name, title in titles.items():
        places[name].set_title(title, fontsize=11)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_small(figure, path, bbox_inches="tight")
    plt.close(figure)
    return Path(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="mpnn run levels", description=__doc__)
    parser.add_argument("path", nargs="?", default="docs/levels.png", help="picture to write (default: %(default)s)")
    print(main(parser.parse_args().path))
