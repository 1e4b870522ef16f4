"""Draws the picture of the README: four graphs, coloured by the level at which each node fires.

Run: ``mpnn run levels``; writes ``docs/levels.png``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import networkx as nx


def main(path: str = "docs/levels.png") -> Path:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from skimage.data import astronaut

    import mpnn
    from mpnn.images import superpixels

    figure, axes = plt.subplots(1, 4, figsize=(17, 4.2), width_ratios=(1, 1.25, 1, 1.1))
    chain = nx.path_graph(8, create_using=nx.DiGraph)
    tree = nx.balanced_tree(2, 4, create_using=nx.DiGraph).reverse()
    grid = nx.DiGraph((nx.grid_2d_graph(6, 6)).edges)
    picture = astronaut()[:256, 100:356]
    pixels = superpixels(picture, 120)
    mpnn.draw(chain, "topological", ax=axes[0], labels=False)
    mpnn.draw(tree, "topological", ax=axes[1], labels=False)
    mpnn.draw(grid, "topological", ax=axes[2], layout=[(j, -i) for i, j in grid], labels=False)
    mpnn.draw(pixels, mpnn.schedule.ordered(pixels.x.mean(1)), ax=axes[3], image=picture, labels=False)
    titles = ("chain: LSTM", "tree: Tree-LSTM", "grid: Grid LSTM", "superpixels, brightest first")
    for ax, title in zip(axes, titles):
        ax.set_title(title, fontsize=11)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return Path(path)


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
