"""Data sets as torch_geometric graphs, with a card for each: source, licence, checksums, counts, published results.

>>> import mpnn
>>> mpnn.datasets.card("cora").counts["edges"]
10556

``mpnn datasets`` lists them on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor
from torch_geometric.data import Data, HeteroData

from mpnn.datasets import (
    documents,
    hetero,
    ogb,
    parse,
    pictures,
    plain,
    series,
    sick,
    skeletons,
    split,
    sst,
    store,
    tagged,
    temporal,
    threads,
)
from mpnn.datasets.catalog import Card, File, Result, card, cards, names
from mpnn.datasets.vectors import word_vectors
from mpnn.datasets.vocabulary import Vocabulary
from mpnn.datasets.words import features

__all__ = [
    "Card", "File", "Result", "Vocabulary",
    "card", "cards", "count", "features", "files", "load", "names", "ogb", "pictures", "sick", "skeletons", "split",
    "sst", "threads", "word_vectors",
]  # fmt: skip


def load(name: str, *, normalize: str | None = None, sparse: bool | str = "auto", download: bool | str = "auto"):
    """Loads a data set by name, and checks it against its card.

    Files are looked for in ``$MPNN_DATA``, then in the folder ``datasets/`` of the project (the user's cache for an
    installed package), then downloaded with their checksum. ``$MPNN_DATA`` is never written to.

    Args:
        name: see :func:`names`; besides these, any ``ogbn-*`` and ``ogbg-*`` that the ogb package knows.
        normalize: ``"row"`` divides each row of x by its sum; for bags of words only.
        sparse: whether x is a CSR tensor, see :func:`features`; for bags of words only.
        download: False never downloads; ``"auto"`` and True do, and only True takes more than 1 GiB.

    Shape:
        One graph: ``Data`` with x ``(N, F)``, edge_index ``(2, E)``, y ``(N,)``, and where a split is given
        train_mask, val_mask, test_mask ``(N,)``, or ``(N, 10)`` for ten splits. Many graphs: a list of ``Data``; with
        given splits ``{"train": [...], "val": [...], "test": [...]}``.
        OGB: see :func:`mpnn.datasets.ogb.read`.

    Raises:
        KeyError: no data set has this name.
        FileNotFoundError: a file is neither here nor to be had; the message says where to put it, and its sha256.
        NotImplementedError: the set has a card and files, but no loader.
        ValueError: the files or the graphs are not those of the card, or an option does not apply.

    Example:
        >>> load("no-such-set")
        Traceback (most recent call last):
            ...
        KeyError: "datasets: 'no-such-set' is unknown; ...
    """
    if ogb.is_ogb(name):
        refuse_options(name, normalize, sparse)
        return check_counts(name, ogb.load(name, download=download))
    entry = card(name)
    if not entry.reader:
        raise no_loader(entry)
    if entry.reader in BAGS_OF_WORDS:
        options = {"normalize": normalize, "sparse": sparse}
    else:
        options = refuse_options(name, normalize, sparse)
    return check_counts(entry.name, READERS[entry.reader](store.files(entry, download=download), **options))


def files(name: str, *, download: bool | str = "auto") -> dict[str, Path]:
    """The files of a data set by name, downloaded if need be and checked: for sets without a loader, too."""
    return store.files(card(name), download=download)


def count(graphs: Data | Sequence[Data] | Mapping[str, Sequence[Data]]) -> dict[str, int]:
    """Counts what a card states: nodes, edges, features, classes, graphs, and the nodes of each mask or the graphs of
    each part.

    With several splits, the masks of the first are counted. A negative label is none; edges that have a field for each
    type, such as parent_index, are added up.

    Example:
        >>> import torch
        >>> count(Data(x=torch.ones(3, 2), edge_index=torch.tensor([[0], [1]]), y=torch.tensor([0, 1, 1])))
        {'nodes': 3, 'edges': 1, 'features': 2, 'classes': 2}
    """
    if isinstance(graphs, HeteroData):
        return hetero.count(graphs)
    if isinstance(graphs, Mapping):
        every = [graph for part in graphs.values() for graph in part]
        return count(every) | {part: len(some) for part, some in graphs.items()}
    many = [graphs] if isinstance(graphs, Data) else list(graphs)
    out = {} if isinstance(graphs, Data) else {"graphs": len(many)}
    out["nodes"] = sum(graph.num_nodes for graph in many)
    out["edges"] = sum(count_edges(graph) for graph in many)
    if "x" in many[0]:
        out["features"] = many[0].num_features
    if isinstance(many[0].get("y"), Tensor) and not many[0].y.is_floating_point():
        out["classes"] = len({label for graph in many for label in graph.y.unique().tolist() if label >= 0})
    for part in ("train", "val", "test"):
        chosen = many[0].get(f"{part}_mask")
        if chosen is not None:
            out[part] = int(first_split(chosen).sum())
    return out


def count_edges(graph: Data) -> int:
    return graph.num_edges or sum(edges.shape[1] for name, edges in graph if name.endswith("_index"))


def first_split(chosen: Tensor) -> Tensor:
    return chosen if chosen.dim() == 1 else chosen[:, 0]


def check_counts(name: str, graphs):
    """Returns the graphs if they count what the card says (no card: nothing to check)."""
    expected = cards()[name].counts if name in cards() else {}
    if not expected:
        return graphs
    found = count(graphs)
    differ = [key for key, value in expected.items() if found.get(key) != value]
    wrong = [f"{found.get(key)} {key} where the card says {expected[key]}" for key in differ]
    if wrong:
        raise ValueError(f"load: {name!r} has {', '.join(wrong)}. The files are another version than the card's.")
    return graphs


def refuse_options(name: str, normalize: str | None, sparse: bool | str) -> dict:
    if normalize is not None or sparse != "auto":
        raise ValueError(
            f"load: normalize={normalize!r}, sparse={sparse!r} do not apply to {name!r}, whose features are not a bag "
            "of words; leave both out."
        )
    return {}


def no_loader(entry: Card) -> NotImplementedError:
    folder = store.find_folder(entry)
    where = f"are in {folder}" if folder else f"belong in {store.home() / entry.folder}"
    return NotImplementedError(
        f"load: {entry.name!r} has a card but no loader yet. Its files {where}: "
        f"{', '.join(file.path for file in entry.files)}. datasets.files({entry.name!r}) gives their paths."
    )


def read_planetoid(paths: Mapping[str, Path], **options) -> Data:
    return parse.planetoid({name.split(".", 2)[2]: path.read_bytes() for name, path in paths.items()}, **options)


def read_npz(parser: Callable) -> Callable:
    def read(paths: Mapping[str, Path], **options):
        (path,) = (path for name, path in paths.items() if name.endswith(".npz"))
        with np.load(path) as arrays:
            return parser(arrays, **options)

    return read


def read_tu(paths: Mapping[str, Path]) -> list[Data]:
    stem = next(name for name in paths if name.endswith("_A.txt")).removesuffix("A.txt")
    return parse.tu({name.removeprefix(stem).removesuffix(".txt"): path.read_text() for name, path in paths.items()})


READERS = {
    "planetoid": read_planetoid,
    "gnn_benchmark": read_npz(parse.gnn_benchmark),
    "heterophilous": read_npz(parse.heterophilous),
    "tu": read_tu,
    "molecules": read_npz(parse.molecules),
    "conll2000": tagged.read_conll2000,
    "conllu": tagged.read_conllu,
    "bmes": tagged.read_bmes,
    "weibo": tagged.read_weibo,
    "plain": plain.read,
    "sst": sst.read,
    "threads": threads.read,
    "sick": sick.read,
    "series": series.read,
    "laser": series.laser,
    "pictures": pictures.read,
    "acm3025": hetero.read_acm3025,
    "acm4019": hetero.read_acm4019,
    "imdb4780": hetero.read_imdb4780,
    "magnn": hetero.read_magnn,
    "movie_reviews": documents.read_movie_reviews,
    "imdb_reviews": documents.read_imdb,
    "roads": read_npz(temporal.roads),
    "chickenpox": temporal.read_chickenpox,
    "covid": temporal.read_covid,
    "skeletons": skeletons.read,
}
BAGS_OF_WORDS = {"planetoid", "gnn_benchmark", "heterophilous", "acm3025", "acm4019", "imdb4780", "magnn"}
