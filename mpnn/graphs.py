r"""Graphs that recurrences run over: chains, grids, trees from parses, threads of comments.

=================== ============================================= =====================================================
function            from                                          edges
=================== ============================================= =====================================================
:func:`chain`       a length                                      each node to the next
:func:`grid`        its sizes, any number                         each node to the next along each dimension
:func:`delays`      chains and lags                               each node to those some steps on
:func:`brackets`    ``(S (NP We) (VP won))``, Penn Treebank, SST  child to parent
:func:`heads`       the head of each word, counted from 1         word to head
:func:`conllu`      CoNLL-U, a file of sentences                  word to head
:func:`thread`      (id, parent, time), or a networkx graph       parent to comment, and previous to next sibling
=================== ============================================= =====================================================

All give ``Data``, without features, that batch as usual. Nothing here recurses, so depth has no limit. Any other DAG
comes through :func:`mpnn.from_networkx`.

Example:
    >>> tree = brackets("(S (NP We) (VP won))")
    >>> tree.edge_index.tolist(), tree.child.tolist(), tree.label, tree.word
    ([[1, 2], [0, 0]], [0, 1], ['S', 'NP', 'VP'], [None, 'We', 'won'])
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Hashable, Iterable, Sequence
from math import prod
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from mpnn.graph import check_tensor
from mpnn.schedule import topological

__all__ = ["brackets", "chain", "conllu", "delays", "grid", "heads", "relations", "thread"]


def chain(num_nodes: int) -> Data:
    """Nodes in a row, each with an edge to the next: a sequence.

    Example:
        >>> chain(3).edge_index.tolist()
        [[0, 1], [1, 2]]
    """
    num_nodes = _whole("chain", num_nodes, "Several chains are a batch of them.")
    if num_nodes < 0:
        raise ValueError(f"chain: num_nodes={num_nodes}; expected 0 or more.")
    place = torch.arange(num_nodes)
    return Data(edge_index=torch.stack([place[:-1], place[1:]]), num_nodes=num_nodes)


def _whole(owner: str, size: Any, way: str) -> int:
    try:
        return index(size)
    except TypeError:
        raise TypeError(f"{owner}: {size!r} is no size; expected a whole number. {way}") from None


def grid(*sizes: int, turned: Iterable[int] = ()) -> Data:
    """A grid in any number of dimensions: each node has an edge to the next along each dimension.

    Nodes are numbered like the entries of a tensor of this shape, the last dimension fastest: a picture ``(rows,
    columns, F)`` is the node field ``x.view(-1, F)``. Along the dimensions in ``turned`` edges lead back, so that the
    pass starts in another corner.

    Returns:
        Data with edge_index ``(2, E)``, dimension ``(E,)`` int64: the one that an edge runs along, position ``(N, n)``
        int64: the place of each node.

    Raises:
        TypeError: a size is no whole number.
        ValueError: there is no size or one below 0, or a dimension to turn is not there.

    Example:
        >>> data = grid(2, 2)
        >>> data.edge_index.tolist(), data.dimension.tolist(), data.position.tolist()
        ([[0, 1, 0, 2], [2, 3, 1, 3]], [0, 0, 1, 1], [[0, 0], [0, 1], [1, 0], [1, 1]])
    """
    sizes, turned = tuple(_whole("grid", size, "Pass them one by one: grid(*sizes).") for size in sizes), set(turned)
    if not sizes or min(sizes) < 0 or not turned <= set(range(len(sizes))):
        raise ValueError(
            f"grid: sizes {sizes}, turned {sorted(turned)}; expected one size or more, none below 0, and dimensions to "
            f"turn in [0, {len(sizes)})."
        )
    position = torch.ones(sizes).nonzero()
    edges, dimension = [], []
    for d, size in enumerate(sizes):
        node = (position[:, d] + 1 < size).nonzero().flatten()
        ways = node, node + prod(sizes[d + 1 :])
        edges.append(torch.stack(ways[::-1] if d in turned else ways))
        dimension.append(torch.full_like(node, d))
    edge_index, dimension = torch.cat(edges, dim=1), torch.cat(dimension)
    return Data(edge_index=edge_index, dimension=dimension, position=position, num_nodes=len(position))


def delays(edge_index: Tensor, lags: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Edges over several steps at once: from each node to the one k steps on, for every lag k.

    Works on any number of sequences of any lengths, with nodes in any order, and on trees whose edges lead away from
    the root: a node hears from its k-th ancestor. Where there are fewer than k steps before a node, there is no edge.

    Args:
        edge_index: ``(2, E)`` (t-1, t), at most one edge into a node.
        lags: the k, each 1 or more.

    Returns:
        edge_index ``(2, E')`` (t-k, t), by lag, and delay ``(E',)`` int64: k.

    Raises:
        TypeError: edge_index is no tensor.
        ValueError: a node has two predecessors, or a lag is below 1.

    Example:
        >>> delays(chain(4).edge_index, [1, 3])
        (tensor([[0, 1, 2, 0],
                [1, 2, 3, 3]]), tensor([1, 1, 1, 3]))
    """
    check_tensor("delays", edge_index)
    lags = sorted(set(lags))
    if lags and lags[0] < 1:
        raise ValueError(f"delays: lag {lags[0]}; expected 1 or more, for a node's own value needs no edge. Drop it.")
    nobody = int(edge_index.max()) + 1 if edge_index.numel() else 0  # stands for no node
    src, dst = edge_index
    twice = torch.bincount(dst, minlength=1) > 1
    if bool(twice.any()):
        node = int(twice.nonzero()[0])
        raise ValueError(
            f"delays: node {node} has the predecessors {src[dst == node].tolist()}; expected at most one, as in a "
            f"chain. {int(twice.sum())} nodes have several. Drop the other edges."
        )
    before = torch.full((nobody + 1,), nobody, device=edge_index.device).index_copy(0, dst, src)
    node = at = torch.arange(nobody, device=edge_index.device)
    edges, delay = [edge_index[:, :0]], [edge_index.new_empty(0)]
    for lag in range(1, max(lags, default=0) + 1):
        at = before[at]
        if lag in lags:
            there = at != nobody
            edges.append(torch.stack([at[there], node[there]]))
            delay.append(torch.full_like(edges[-1][0], lag))
    return torch.cat(edges, dim=1), torch.cat(delay)


def brackets(text: str) -> Data:
    """A tree in brackets: ``(label child child ...)`` or ``(label word)``, as in the Penn Treebank and in the SST.

    Nodes are numbered as their brackets open, so the root is node 0. Brackets without a label, as the Penn Treebank has
    around sentences, have the label ``""``. Only ASCII white space parts tokens: a word may hold a no-break space, as
    some of the SST do.

    Returns:
        Data with edge_index ``(2, N - 1)`` (child, parent), child ``(N - 1,)`` int64: which child it is, from 0;
        label: a list of N strings; word: a list of N strings, None at inner nodes.

    Raises:
        ValueError: brackets do not match, there are several trees or none, or a node has both a word and children.

    Example:
        >>> brackets("(3 (2 It) (4 (2 's) (3 good)))").edge_index.tolist()
        [[1, 2, 3, 4], [0, 0, 2, 2]]
    """
    labels, words, parents, child, count = [], [], [], [], []
    path: list[int] = []  # the open brackets
    for token in re.finditer(r"\(\s*([^\s()]*)|\)|[^\s()]+", text, re.ASCII):
        at = f"brackets: at character {token.start()}"
        if token[0] == ")":
            if not path:
                raise ValueError(f"{at}: ')' closes no bracket; expected as many ')' as '('. Drop it.")
            path.pop()
        elif token[0][0] == "(":
            if not path and labels:
                raise ValueError(f"{at}: a second tree begins; expected one. Split the text, a tree a call.")
            if path and words[path[-1]] is not None:
                raise _mixed(at, labels[path[-1]], words[path[-1]])
            if path:
                parents.append(path[-1])
                child.append(count[path[-1]])
                count[path[-1]] += 1
            path.append(len(labels))
            labels.append(token[1])
            words.append(None)
            count.append(0)
        elif not path:
            raise ValueError(f"{at}: {token[0]!r} is outside of all brackets; expected (label ...).")
        elif count[path[-1]] or words[path[-1]] is not None:
            raise _mixed(at, labels[path[-1]], token[0])
        else:
            words[path[-1]] = token[0]
    if path or not labels:
        open_ones = f"{len(path)} brackets are still open, the last one {labels[path[-1]]!r}" if path else ""
        wrong = open_ones or "there is no tree"
        raise ValueError(f"brackets: at the end of the text {wrong}; expected one tree, (label ...).")
    edge_index = torch.stack([torch.arange(1, len(labels)), torch.tensor(parents, dtype=torch.long)])
    child = torch.tensor(child, dtype=torch.long)
    return Data(edge_index=edge_index, child=child, num_nodes=len(labels), label=labels, word=words)


def _mixed(at: str, label: str, word: str) -> ValueError:
    return ValueError(
        f"{at}: node {label!r} has the word {word!r} and something else; expected one word, or children. Give the "
        f"word a bracket of its own: ({label} ({word} {word}) ...)."
    )


def heads(head: Sequence[int], owner: str = "heads") -> Data:
    """A dependency tree from the head of each word: words are counted from 1, and the head of the root is 0.

    Returns:
        Data with edge_index ``(2, E)`` (word, head), both from 0; node_id ``(N,)`` int64: the words' numbers, from 1.

    Raises:
        TypeError: a head is no whole number.
        ValueError: a head is no word of the sentence.
        CycleError: the heads go in a circle.

    Example:
        >>> heads([2, 0, 2]).edge_index.tolist()                      # She <- reads -> books
        [[0, 2], [1, 1]]
    """
    try:
        head = torch.as_tensor(head, dtype=torch.long)
    except (TypeError, ValueError):
        shown = reprlib.repr(head)
        raise TypeError(
            f"{owner}: head is {shown}; expected a whole number for each word. Of text, pass map(int, ...) as a list."
        ) from None
    outside = (head < 0) | (head > len(head))
    if bool(outside.any()):
        word = int(outside.nonzero()[0])
        raise ValueError(
            f"{owner}: word {word + 1} has head {int(head[word])}; expected 0 for the root, or a word, 1 to "
            f"{len(head)}. {int(outside.sum())} of {len(head)} words have such a head."
        )
    word = head.nonzero().flatten()
    edge_index = torch.stack([word, head[word] - 1])
    data = Data(edge_index=edge_index, num_nodes=len(head), node_id=torch.arange(1, len(head) + 1))
    topological(data)  # an error if there is a cycle
    return data


def conllu(text: str) -> list[Data]:
    r"""Sentences in CoNLL-U as dependency trees, one after the other. Ranges (3-4) and empty nodes (5.1) are left out.

    Returns:
        For each sentence what :func:`heads` gives, and lists of N strings: word, tag (the universal one), label (of the
        edge to the head).

    Raises:
        ValueError: a line has not ten columns, words are not numbered 1, 2, ..., or a head is no word of its sentence.
        CycleError: heads go in a circle.

    Example:
        >>> columns = "{}\t{}\t_\t{}\t_\t_\t{}\t{}\t_\t_"
        >>> rows = [columns.format(1, "She", "PRON", 2, "nsubj"), columns.format(2, "reads", "VERB", 0, "root")]
        >>> tree, = conllu("\n".join(rows))
        >>> tree.edge_index.tolist(), tree.word
        ([[0], [1]], ['She', 'reads'])
    """
    sentences, rows = [], []
    for number, line in enumerate([*text.split("\n"), ""], start=1):  # other line breaks may be words
        if line.startswith("#"):
            continue
        if line.strip():
            rows.append((number, line.split("\t")))
        elif rows:
            sentences.append(_sentence(rows))
            rows = []
    return sentences


def _sentence(rows: list[tuple[int, list[str]]]) -> Data:
    words = []
    for number, columns in rows:
        if len(columns) != 10:
            raise ValueError(f"conllu: line {number} has {len(columns)} columns; expected 10, separated by tabs.")
        if "-" in columns[0] or "." in columns[0]:
            continue
        if columns[0] != str(len(words) + 1) or not columns[6].isdecimal():
            raise ValueError(
                f"conllu: line {number} has the number {columns[0]!r} and the head {columns[6]!r}; expected the number "
                f"{len(words) + 1}, for words are counted from 1 and sentences end in an empty line, and a number as "
                "head."
            )
        words.append(columns)
    data = heads([int(columns[6]) for columns in words], f"conllu: in the sentence that begins in line {rows[0][0]}")
    data.word, data.tag, data.label = ([columns[k] for columns in words] for k in (1, 3, 7))
    return data


def thread(comments: Any) -> Data:
    """A thread of comments: each hears from what it replies to and from the reply to the same that came before it.

    Siblings are the comments with the same parent, in order of time; of equal times, in the order given. Comments whose
    parent is None are siblings too: they reply to a post that is not among them.

    Args:
        comments: tuples (id, parent's id or None, time); or a networkx graph whose nodes have the attributes ``parent``
            and ``time`` (its edges are not looked at). Ids are hashable, times are of one comparable type.

    Returns:
        Data with parent_index ``(2, E)`` (parent, comment) and sibling_index ``(2, E')`` (previous sibling, comment),
        in the order the comments were given, and node_id: the list of ids. :func:`relations` makes of it, or of a
        batch, what a layer takes as ``edge_index``.

    Raises:
        ValueError: an id comes twice, a parent is not among the comments, a comment has no parent or time attribute or
            a time that has no place in the order.
        CycleError: comments reply to each other in a circle.

    Example:
        >>> data = thread([("post", None, 0), ("late", "post", 9), ("early", "post", 1)])
        >>> relations(data)
        {'parent': tensor([[0, 0], [1, 2]]), 'sibling': tensor([[2], [1]])}
    """
    comments = _attributes(comments) if hasattr(comments, "nodes") else list(comments)
    place = _places([comment for comment, _, _ in comments])
    for comment, parent, time in comments:
        if parent is not None and parent not in place:
            raise ValueError(
                f"thread: comment {comment!r} replies to {parent!r}, which is not among the {len(comments)} comments; "
                "expected the id of one of them, or None. Add it, or give the replies to it None."
            )
        if time is None or time != time:  # nan
            raise ValueError(f"thread: comment {comment!r} has the time {time!r}, which has no place in the order.")
    parents = [(place[parent], place[comment]) for comment, parent, _ in comments if parent is not None]
    data = Data(parent_index=_edges(parents), num_nodes=len(comments), node_id=list(place))
    topological(Data(edge_index=data.parent_index, num_nodes=len(comments), node_id=data.node_id))
    data.sibling_index = _edges(_siblings(comments, place))
    return data


def relations(data: Data) -> dict[str, Tensor]:
    """The edges of a thread, or of a batch of threads, by edge type."""
    return {"parent": data.parent_index, "sibling": data.sibling_index}


def _attributes(graph: Any) -> list[tuple]:
    for node, attributes in graph.nodes(data=True):
        for name in ("parent", "time"):
            if name not in attributes:
                raise ValueError(
                    f"thread: node {node!r} has no attribute {name!r}; expected parent and time on every node. Set "
                    f"graph.nodes[{node!r}][{name!r}] (parent=None for the post)."
                )
    return [(node, attributes["parent"], attributes["time"]) for node, attributes in graph.nodes(data=True)]


def _places(ids: list[Hashable]) -> dict[Hashable, int]:
    place: dict[Hashable, int] = {}
    for k, comment in enumerate(ids):
        if place.setdefault(comment, k) != k:
            raise ValueError(
                f"thread: the id {comment!r} comes twice, at {place[comment]} and at {k}; expected each id once."
            )
    return place


def _siblings(comments: list[tuple], place: dict[Hashable, int]) -> Iterable[tuple[int, int]]:
    """Each comment with the reply to the same parent that came before it, in the comments' order."""
    last: dict[Hashable, int] = {}
    before = {}
    for comment, parent, _ in sorted(comments, key=lambda comment: comment[2]):
        if parent in last:
            before[place[comment]] = last[parent]
        last[parent] = place[comment]
    return [(before[k], k) for k in sorted(before)]


def _edges(pairs: Iterable[tuple[int, int]]) -> Tensor:
    return torch.tensor(list(pairs), dtype=torch.long).reshape(-1, 2).t().contiguous()
