"""Pure parsers: raw bytes, text or arrays -> graphs. Nothing here knows a path, a card or the network."""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import scipy  # its parts come when they are asked for
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import coalesce, one_hot, remove_self_loops, to_undirected

from mpnn.datasets.words import features


class ArrayUnpickler(pickle.Unpickler):
    """Reads Python-2 pickles of arrays, CSR matrices and dicts of lists, and refuses every other class.

    A pickle may name any function to be called; here the names are looked up in a table of six instead.
    """

    @cached_property
    def allowed(self) -> dict[tuple[str, str], Any]:
        return {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("scipy.sparse.csr", "csr_matrix"): scipy.sparse.csr_matrix,
            ("collections", "defaultdict"): defaultdict,
            ("__builtin__", "list"): list,
        }

    def find_class(self, module: str, name: str):
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(
                f"planetoid: the pickle asks for {module}.{name}; expected only numpy arrays, CSR matrices, "
                "defaultdict and list. The file is not one of the Planetoid files, do not open it."
            )
        return self.allowed[module, name]


def unpickle(raw: bytes):
    """One Planetoid file.

    Raises:
        pickle.UnpicklingError: the pickle names anything but arrays, CSR matrices, defaultdict and list.
    """
    return ArrayUnpickler(io.BytesIO(raw), encoding="latin1").load()


def planetoid(raw: Mapping[str, bytes], *, normalize: str | None = None, sparse: bool | str = "auto") -> Data:
    """A citation graph from the eight files of Yang, Cohen & Salakhutdinov 2016, arXiv:1603.08861.

    Source: the layout in the README of github.com/kimiyoung/planetoid. Equal to torch_geometric's ``Planetoid``.
    Deviations: test ids without a row (15 in CiteSeer) get zero features and class 0, as in torch_geometric.

    Args:
        raw: contents of the files by the end of their name: x, tx, allx, y, ty, ally, graph, test.index.
        normalize: see :func:`mpnn.datasets.features`.
        sparse: see :func:`mpnn.datasets.features`.

    Shape:
        x ``(N, F)`` float32, edge_index ``(2, E)`` int64 (both ways, no self-loops, no doubles), y ``(N,)`` int64,
        train_mask, val_mask, test_mask ``(N,)`` bool: the public split.
    """
    item = {key: unpickle(raw[key]) for key in ("tx", "allx", "y", "ty", "ally", "graph")}
    test = np.array(raw["test.index"].split(), dtype=np.int64)
    num_nodes = int(test.max()) + 1
    row = np.arange(num_nodes)  # row of each node in (allx, then tx in the order of sorted ids)
    row[test] = np.sort(test)
    words = stack(rebuild(item["allx"]), rebuild(item["tx"]), np.sort(test), num_nodes)[row]
    label = stack(item["ally"], item["ty"], np.sort(test), num_nodes).toarray()[row].argmax(axis=1)
    labelled = len(item["y"])
    return Data(
        x=features(words, normalize=normalize, sparse=sparse),
        edge_index=adjacency(item["graph"], num_nodes),
        y=torch.from_numpy(label),
        train_mask=mask(num_nodes, slice(labelled)),
        val_mask=mask(num_nodes, slice(labelled, labelled + 500)),
        test_mask=mask(num_nodes, torch.from_numpy(test)),
    )


def rebuild(matrix: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    """The same matrix made by SciPy's constructor, which checks what the pickle left unchecked."""
    return scipy.sparse.csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=matrix._shape)


def stack(first, last, at: np.ndarray, num_rows: int) -> scipy.sparse.csr_matrix:
    """``first`` on top, the rows of ``last`` at the rows ``at`` below, zeros elsewhere."""
    first, last = scipy.sparse.csr_matrix(first), scipy.sparse.coo_matrix(last)
    below = (last.data, (at[last.row] - first.shape[0], last.col))
    return scipy.sparse.vstack(
        [first, scipy.sparse.csr_matrix(below, shape=(num_rows - first.shape[0], first.shape[1]))], format="csr"
    )


def mask(num_nodes: int, chosen) -> Tensor:
    out = torch.zeros(num_nodes, dtype=torch.bool)
    out[chosen] = True
    return out


def adjacency(neighbours: Mapping[int, list[int]], num_nodes: int) -> Tensor:
    """The edges of a dict of lists, without self-loops and doubles, sorted by target."""
    pairs = [(i, j) for i, js in neighbours.items() for j in js]
    edge_index, _ = remove_self_loops(torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).t())
    return coalesce(edge_index, num_nodes=num_nodes, sort_by_row=False)


def csr(arrays: Mapping[str, np.ndarray], key: str) -> scipy.sparse.csr_matrix:
    parts = tuple(arrays[f"{key}_{part}"] for part in ("data", "indices", "indptr"))
    return scipy.sparse.csr_matrix(parts, shape=tuple(arrays[f"{key}_shape"]))


def gnn_benchmark(
    arrays: Mapping[str, np.ndarray], *, normalize: str | None = None, sparse: bool | str = "auto"
) -> Data:
    """A graph in the npz layout of Shchur et al. 2018, arXiv:1811.05868 (Amazon, Coauthor).

    Source: the layout in github.com/shchur/gnn-benchmark. Equal to torch_geometric's ``Amazon`` and ``Coauthor``.
    Deviations: as in torch_geometric, word counts become 0 or 1, edges run both ways, and self-loops are dropped.

    Args:
        arrays: ``adj_*`` and ``attr_*`` (data, indices, indptr, shape) and ``labels``.
        normalize: see :func:`mpnn.datasets.features`.
        sparse: see :func:`mpnn.datasets.features`.

    Shape:
        x ``(N, F)`` float32, edge_index ``(2, E)`` int64, y ``(N,)`` int64.
    """
    words, links = csr(arrays, "attr"), csr(arrays, "adj").tocoo()
    words.data = (words.data > 0).astype(np.float32)
    edge_index = torch.from_numpy(np.stack([links.row, links.col]).astype(np.int64))
    edge_index, _ = remove_self_loops(edge_index)
    return Data(
        x=features(words, normalize=normalize, sparse=sparse),
        edge_index=to_undirected(edge_index, num_nodes=words.shape[0]),
        y=torch.from_numpy(arrays["labels"].astype(np.int64)),
    )


def heterophilous(
    arrays: Mapping[str, np.ndarray], *, normalize: str | None = None, sparse: bool | str = "auto"
) -> Data:
    """A graph in the npz layout of Platonov et al. 2023, arXiv:2302.11640, with its ten splits.

    Source: the layout in github.com/yandex-research/heterophilous-graphs. Equal to torch_geometric's
    ``HeterophilousGraphDataset``.
    Deviations: none.

    Args:
        arrays: node_features, node_labels, edges (each once), train_masks, val_masks, test_masks.
        normalize: see :func:`mpnn.datasets.features`.
        sparse: see :func:`mpnn.datasets.features`.

    Shape:
        x ``(N, F)`` float32, edge_index ``(2, E)`` int64 (both ways), y ``(N,)`` int64, and three masks ``(N, 10)``
        bool, one column a split; :func:`mpnn.datasets.split.given` takes one.
    """
    num_nodes = len(arrays["node_labels"])
    edge_index = torch.from_numpy(arrays["edges"].astype(np.int64)).t().contiguous()
    masks = {f"{part}_mask": torch.from_numpy(arrays[f"{part}_masks"].T.copy()) for part in ("train", "val", "test")}
    return Data(
        x=features(arrays["node_features"], normalize=normalize, sparse=sparse),
        edge_index=to_undirected(edge_index, num_nodes=num_nodes),
        y=torch.from_numpy(arrays["node_labels"].astype(np.int64)),
        **masks,
    )


def table(text: str, dtype: type) -> Tensor:
    """Lines of numbers with commas between -> ``(lines, columns)``."""
    return torch.from_numpy(np.loadtxt(io.StringIO(text), delimiter=",", dtype=dtype, ndmin=2))


def tu(text: Mapping[str, str]) -> list[Data]:
    """Graphs in the text format of the TU Dortmund collection (Morris et al. 2020, arXiv:2007.08663).

    Source: the README in each folder of the collection. Equal to torch_geometric's ``TUDataset`` with
    ``use_node_attr=True, use_edge_attr=True``.
    Deviations: as in torch_geometric, self-loops and double edges are dropped (their attributes summed).

    Args:
        text: contents by the part of the file name after the set's own: A, graph_indicator, graph_labels, and where
            there are such node_labels, node_attributes, edge_labels, edge_attributes.

    Shape:
        one ``Data`` a graph: x ``(N, F)`` = attributes, then one-hot labels; edge_index ``(2, E)``;
        edge_attr ``(E, F)`` likewise, if there are any; y ``(1,)`` int64, classes numbered from 0.

    Raises:
        ValueError: nodes are not listed graph by graph, or an edge joins two graphs.
    """
    graph = table(text["graph_indicator"], np.int64).view(-1) - 1
    edge_index = table(text["A"], np.int64).t() - 1
    check_tu(graph, edge_index)
    x, edge_attr = columns(text, "node"), columns(text, "edge")
    _, y = table(text["graph_labels"], np.int64).view(-1).unique(return_inverse=True)
    edge_index, edge_attr = remove_self_loops(edge_index, edge_attr)
    edge_index, edge_attr = coalesce(edge_index, edge_attr, num_nodes=len(graph))
    return list(cut(graph, edge_index, x, edge_attr, y))


def check_tu(graph: Tensor, edge_index: Tensor) -> None:
    if (graph.diff() < 0).any():
        node = int((graph.diff() < 0).nonzero()[0]) + 2
        raise ValueError(f"tu: node {node} belongs to an earlier graph than node {node - 1}; expected graph by graph.")
    src, dst = graph[edge_index]
    if (src != dst).any():
        e = int((src != dst).nonzero()[0])
        raise ValueError(
            f"tu: the edge in line {e + 1} joins graph {int(src[e]) + 1} to graph {int(dst[e]) + 1}; "
            f"expected both ends in one graph. {int((src != dst).sum())} of {src.numel()} edges do so."
        )


def columns(text: Mapping[str, str], kind: str) -> Tensor | None:
    """Attributes and one-hot labels side by side, or None if there are neither."""
    found = []
    if f"{kind}_attributes" in text:
        found.append(table(text[f"{kind}_attributes"], np.float32))
    if f"{kind}_labels" in text:
        labels = table(text[f"{kind}_labels"], np.int64)
        found += [one_hot(column - column.min()) for column in labels.unbind(dim=1)]
    return torch.cat(found, dim=1) if found else None


def cut(graph: Tensor, edge_index: Tensor, x: Tensor | None, edge_attr: Tensor | None, y: Tensor) -> Iterator[Data]:
    """Cuts one large graph, its nodes and edges in the order of the graphs, into its graphs."""
    nodes = torch.bincount(graph, minlength=len(y)).tolist()
    edges = torch.bincount(graph[edge_index[0]], minlength=len(y)).tolist()
    n = e = 0
    for label, num_nodes, num_edges in zip(y.view(-1, 1), nodes, edges, strict=True):
        here = Data(edge_index=edge_index[:, e : e + num_edges] - n, y=label, num_nodes=num_nodes)
        if x is not None:
            here.x = x[n : n + num_nodes]
        if edge_attr is not None:
            here.edge_attr = edge_attr[e : e + num_edges]
        n, e = n + num_nodes, e + num_edges
        yield here


def molecules(arrays: Mapping[str, np.ndarray]) -> list[Data]:
    """Molecules stored end to end: graph i is the rows ``ptr[i]:ptr[i + 1]``.

    Source: torch_geometric's ``from_smiles``, whose integer codes of atoms and bonds these are.
    Deviations: the SMILES strings are left out.

    Args:
        arrays: x, edge_index (numbered within each molecule), edge_attr, node_ptr, edge_ptr, y.

    Shape:
        one ``Data`` a molecule: x ``(N, 9)`` int64, edge_index ``(2, E)``, edge_attr ``(E, 3)`` int64, y ``(1, 1)``
        float32 (ESOL: log10 of the solubility in mol/l).
    """
    x, edge_index, edge_attr = (
        torch.from_numpy(arrays[key].astype(np.int64)) for key in ("x", "edge_index", "edge_attr")
    )
    y = torch.from_numpy(arrays["y"].astype(np.float32)).view(-1, 1, 1)
    node, edge = arrays["node_ptr"].tolist(), arrays["edge_ptr"].tolist()
    return [
        Data(
            x=x[node[i] : node[i + 1]],
            edge_index=edge_index[:, edge[i] : edge[i + 1]],
            edge_attr=edge_attr[edge[i] : edge[i + 1]],
            y=y[i],
        )
        for i in range(len(y))
    ]
