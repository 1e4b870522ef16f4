"""Graphs with several types of nodes and edges: ACM, DBLP and IMDB, as the papers on HAN, HeCo and MAGNN use them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import scipy  # its parts come when they are asked for
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mpnn.datasets import parse
from mpnn.datasets.words import features

__all__ = ["count", "read_acm3025", "read_acm4019", "read_imdb4780", "read_magnn"]

MAGNN = {  # the types of nodes, by their number, and the relations, of each set; of the first, y is known
    "dblp": (
        ["author", "paper", "term", "conference"],
        [("author", "paper"), ("paper", "author"), ("paper", "term"), ("paper", "conference"), ("term", "paper"),
         ("conference", "paper")],
    ),
    "imdb": (
        ["movie", "director", "actor"],
        [("movie", "director"), ("movie", "actor"), ("director", "movie"), ("actor", "movie")],
    ),
}  # fmt: skip
LABELS = (20, 40, 60)  # training labels a class, in the splits of HeCo


def count(data: HeteroData) -> dict[str, int]:
    """Counts of all types together; features, classes and masks are those of the type that has y.

    Example:
        >>> paper = {"x": torch.ones(2, 3), "y": torch.tensor([0, 1])}
        >>> count(HeteroData(paper=paper, author={"num_nodes": 4}))
        {'nodes': 6, 'edges': 0, 'features': 3, 'classes': 2}
    """
    (store,) = (store for store in data.node_stores if "y" in store)
    out = {"nodes": data.num_nodes, "edges": data.num_edges, "features": store.x.shape[1]}
    out["classes"] = len(store.y.unique())
    for part in ("train", "val", "test"):
        chosen = store.get(f"{part}_mask")
        if chosen is not None:
            out[part] = int((chosen if chosen.dim() == 1 else chosen[:, 0]).sum())
    return out


def pairs(matrix) -> Tensor:
    """The places of a matrix that are not 0, as edges from its rows to its columns."""
    row, col = matrix.nonzero()
    return torch.from_numpy(np.stack([row, col]).astype(np.int64))


def mat(path: Path) -> dict:
    """The arrays of a file of MATLAB's."""
    return scipy.io.loadmat(str(path))


def read_acm3025(paths: Mapping[str, Path], **options) -> HeteroData:
    """Papers, and those of them that share an author (PAP) or a subject (PLP).

    The file also has PMP and PTP, which are not read: the latter joins each paper with every one. Each node is joined
    with itself, as meta-paths do.
    """
    (path,) = paths.values()
    return acm3025(mat(path), **options)


def acm3025(arrays: Mapping[str, np.ndarray], **options) -> HeteroData:
    """ACM as in the file of Wang et al. 2019, arXiv:1903.07293.

    Shape:
        paper: x ``(N, F)``, y ``(N,)``, train_mask, val_mask, test_mask ``(N,)``; edge_index ``(2, E)`` of
        (paper, PAP, paper) and (paper, PLP, paper).
    """
    data = HeteroData()
    data["paper"].x = features(arrays["feature"], **options)
    data["paper"].y = torch.from_numpy(arrays["label"].argmax(1))
    put_masks(data["paper"], {part: arrays[f"{part}_idx"].ravel() for part in ("train", "val", "test")})
    for name in ("PAP", "PLP"):
        data["paper", name, "paper"].edge_index = pairs(arrays[name])
    return data


def read_imdb4780(paths: Mapping[str, Path], **options) -> HeteroData:
    """Movies, and those of them that share an actor (MAM), a director (MDM) or a year (MYM)."""
    (path,) = paths.values()
    return imdb4780(mat(path), **options)


def imdb4780(arrays: Mapping[str, np.ndarray], **options) -> HeteroData:
    """IMDB as in the file of Wang et al. 2019, arXiv:1903.07293; there is no split in it.

    Shape:
        movie: x ``(N, F)``, y ``(N,)``; edge_index ``(2, E)`` of (movie, MAM, movie), (movie, MDM, movie),
        (movie, MYM, movie).
    """
    data = HeteroData()
    data["movie"].x = features(arrays["X"], **options)
    data["movie"].y = torch.from_numpy(arrays["Y"].ravel().astype(np.int64)) - 1
    for name, matrix in zip(("MAM", "MDM", "MYM"), arrays["adj"].ravel(), strict=True):
        data["movie", name, "movie"].edge_index = pairs(scipy.sparse.csr_matrix(matrix))
    return data


def read_acm4019(paths: Mapping[str, Path], **options) -> HeteroData:
    (path,) = paths.values()
    with np.load(path) as arrays:
        return acm4019(arrays, **options)


def acm4019(arrays: Mapping[str, np.ndarray], **options) -> HeteroData:
    """ACM with papers, authors and subjects, as in Wang et al. 2021, arXiv:2105.09111.

    Shape:
        paper: x ``(N, F)``, y ``(N,)``; train_mask, val_mask, test_mask ``(N, 3)``, the splits with 20, 40 and 60
        labels a class. author, subject: num_nodes. Edges "to" run both ways.
    """
    data = HeteroData()
    words = parse.csr(arrays, "feat")
    data["paper"].x = features(words, **options)
    data["paper"].y = torch.from_numpy(arrays["labels"].astype(np.int64).ravel())
    put_masks(data["paper"], splits(arrays))
    for kind in ("author", "subject"):
        edges = torch.from_numpy(arrays[f"paper_{kind}"].astype(np.int64)).t().contiguous()
        data["paper", "to", kind].edge_index, data[kind, "to", "paper"].edge_index = edges, edges.flip(0)
    _, data["author"].num_nodes, data["subject"].num_nodes = (int(number) for number in arrays["num_nodes"])
    return data


def read_magnn(paths: Mapping[str, Path], **options) -> HeteroData:
    """DBLP or IMDB in the files of Fu et al. 2020, arXiv:2002.01680, which is told by their type numbers."""
    arrays = {name: load(path) for name, path in paths.items()}
    return magnn(arrays, **options)


def load(path: Path):
    """A sparse matrix, the arrays of an npz, or the one of an npy."""
    if path.suffix == ".npy":
        return np.load(path)
    with np.load(path) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    return scipy.sparse.load_npz(path) if "format" in found else found


def magnn(arrays: Mapping, **options) -> HeteroData:
    """A graph from MAGNN's files: one adjacency matrix of all nodes, type after type, and features of each type.

    Source: the layout that torch_geometric's ``DBLP`` and ``IMDB`` read; equal to these.
    Deviations: none.

    Shape:
        the first type: x, y, train_mask, val_mask, test_mask ``(N,)``; of DBLP also hgb_train_mask, hgb_test_mask
        ``(N,)``, and heco_train_mask, heco_val_mask, heco_test_mask ``(N, 3)``, the splits with 20, 40 and 60 labels a
        class. Others: x ``(N, F)``, or num_nodes. Edges "to".
    """
    kind = arrays["node_types.npy"]
    types, relations = MAGNN["dblp" if kind.max() == 3 else "imdb"]
    data = HeteroData()
    for number, name in enumerate(types):
        put_features(data[name], arrays, number, int((kind == number).sum()), options)
    first = data[types[0]]
    first.y = torch.from_numpy(arrays["labels.npy"].astype(np.int64))
    given = arrays["train_val_test_idx.npz"]
    put_masks(first, {part: given[f"{part}_idx"] for part in ("train", "val", "test")})
    if "hgb_split.npz" in arrays:
        hgb = arrays["hgb_split.npz"]
        put_masks(first, {f"hgb_{part}": hgb[f"{part}_idx"] for part in ("train", "test")})
        put_masks(first, {f"heco_{part}": some for part, some in splits(arrays["heco_splits.npz"]).items()})
    adjacency = arrays["adjM.npz"].tocsr()
    for src, dst in relations:
        rows, cols = (np.flatnonzero(kind == types.index(end)) for end in (src, dst))
        data[src, "to", dst].edge_index = pairs(adjacency[rows][:, cols])
    return data


def put_features(store, arrays: Mapping, number: int, num_nodes: int, options: dict) -> None:
    """x of one type: bags of words, or numbers as they are; the number of nodes where there is none."""
    words, dense = arrays.get(f"features_{number}.npz"), arrays.get(f"features_{number}.npy")
    if words is not None:
        store.x = features(words, **options)
    elif dense is not None:
        store.x = torch.from_numpy(dense).float()
    else:
        store.num_nodes = num_nodes


def splits(arrays: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """The three splits of HeCo by part."""
    return {part: [arrays[f"{part}_{labels}"] for labels in LABELS] for part in ("train", "val", "test")}


def put_masks(store, parts: Mapping[str, np.ndarray | Iterable[np.ndarray]]) -> None:
    """Writes a mask ``(N,)`` for each part, or ``(N, splits)`` for a list of indices."""
    for part, index in parts.items():
        many = index if isinstance(index, list) else [index]
        masks = [parse.mask(len(store.y), torch.from_numpy(np.asarray(some).astype(np.int64).ravel())) for some in many]
        store[f"{part}_mask"] = torch.stack(masks, dim=1) if isinstance(index, list) else masks[0]
