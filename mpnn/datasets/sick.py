r"""SICK: pairs of sentences, how related they are, and both sentences' parses.

A pair is one graph, so that a batch of pairs is one pass over all their trees. It can be seen in three ways, with
the same fields:

================================ ============================= =================================== ================
view                             nodes                         edges                               root of a sentence
================================ ============================= =================================== ================
:func:`mpnn.datasets.load`       the words                     word to head                        head of all
:func:`constituency`             words and phrases             child to phrase, with its position  the whole
:func:`chain`                    the words                     word to the next                    the last word
================================ ============================= =================================== ================
"""

from __future__ import annotations

import csv
import io
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Data

from mpnn.graphs import heads

__all__ = ["ENTAILMENT", "chain", "constituency", "parse", "read"]

ENTAILMENT = ("NEUTRAL", "ENTAILMENT", "CONTRADICTION")
PARTS = {"train": "train", "dev": "val", "test": "test"}


def read(paths: Mapping[str, Path]) -> dict[str, list[Data]]:
    """The three parts, from the files ``<part>.trees.tsv.xz``."""
    return {
        part: parse(lzma.decompress(paths[f"{name}.trees.tsv.xz"].read_bytes()).decode())
        for name, part in PARTS.items()
    }


def parse(text: str) -> list[Data]:
    r"""Pairs from a table with a header; a row is a pair, its columns ``a_*`` and ``b_*`` the two sentences.

    Returns:
        For each pair Data whose nodes are the words of the first sentence, then those of the second:
        edge_index ``(2, N - 2)`` (word, head); word, label: lists of N strings, the label that of the edge to the head;
        sentence ``(N,)`` int64: 0 or 1; root_index ``(2,)``: the node at the top of each sentence;
        phrase ``(2N - 2,)`` int64: for :func:`constituency`;
        y ``(1,)``: relatedness, 1 to 5; entailment ``(1,)`` int64: position in ``ENTAILMENT``; pair: the number.

    Raises:
        ValueError: a sentence has no single root, or columns do not agree about its length; the message has the pair.

    Example:
        >>> row = {"id": "7", "relatedness": "3.5", "entailment": "NEUTRAL"}
        >>> row |= {"a_toks": "Dogs run", "a_parents": "2 0", "a_rels": "nsubj root", "a_cparents": "3 3 0"}
        >>> row |= {"b_toks": "Run", "b_parents": "0", "b_rels": "root", "b_cparents": "0"}
        >>> pair, = parse("\t".join(row) + "\n" + "\t".join(row.values()))
        >>> pair.word, pair.edge_index.tolist(), pair.root_index.tolist()
        (['Dogs', 'run', 'Run'], [[0], [1]], [1, 2])
    """
    rows = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [_pair(row) for row in rows]


def _pair(row: Mapping[str, str]) -> Data:
    toks, rels = ([row[f"{side}_{name}"].split(" ") for side in "ab"] for name in ("toks", "rels"))
    head, phrase = ([_numbers(row[f"{side}_{name}"]) for side in "ab"] for name in ("parents", "cparents"))
    where = [f"sick: sentence {side} of pair {row['id']}" for side in "ab"]
    for columns in zip(where, toks, rels, head, phrase):
        _check(*columns)
    trees = [heads(head[k].tolist(), where[k]) for k in (0, 1)]
    n, m = map(len, toks)
    return Data(
        edge_index=torch.cat([trees[0].edge_index, trees[1].edge_index + n], dim=1),
        num_nodes=n + m,
        word=toks[0] + toks[1],
        label=rels[0] + rels[1],
        sentence=torch.arange(2).repeat_interleave(torch.tensor([n, m])),
        root_index=(torch.cat(head) == 0).nonzero().flatten(),
        phrase=_phrases(phrase, n, m),
        y=torch.tensor([float(row["relatedness"])]),
        entailment=torch.tensor([ENTAILMENT.index(row["entailment"])]),
        pair=int(row["id"]),
    )


def _numbers(text: str) -> Tensor:
    return torch.tensor(list(map(int, text.split(" "))))


def _check(where: str, toks: Sequence, rels: Sequence, head: Tensor, phrase: Tensor) -> None:
    n = len(toks)
    if not n == len(rels) == len(head) == (len(phrase) + 1) // 2:
        raise ValueError(
            f"{where} has {n} words, {len(rels)} relations, {len(head)} heads and {len(phrase)} constituents; expected "
            "as many of the first three, and twice as many constituents, less one."
        )
    for what, top in (("heads", head), ("constituents", phrase)):
        if int((top == 0).sum()) != 1:
            raise ValueError(f"{where} has {int((top == 0).sum())} roots among its {what}; expected one.")
    children = torch.bincount(phrase, minlength=2 * n)
    if bool((children[1 : n + 1] != 0).any() | (children[n + 1 :] != 2).any()):
        raise ValueError(f"{where}: expected phrases of two children each, and words without.")


def _phrases(phrase: Sequence[Tensor], n: int, m: int) -> Tensor:
    """The phrase that each node is in, -1 if in none: nodes are the words of both sentences, then their phrases."""
    new = [torch.cat([torch.arange(n), n + m + torch.arange(n - 1)])]
    new.append(torch.cat([n + torch.arange(m), n + m + n - 1 + torch.arange(m - 1)]))
    inside = torch.empty(2 * (n + m) - 2, dtype=torch.long)
    for number, parent in zip(new, phrase):
        inside[number] = torch.where(parent > 0, number[parent - 1], -1)
    return inside


def constituency(pair: Data) -> Data:
    """The pair with binary phrase trees: nodes are the words, as they were, and then the phrases.

    Returns:
        Data with edge_index ``(2, 2N - 4)`` (child, phrase), child ``(2N - 4,)`` int64: 0 left, 1 right; word: None at
        phrases; root_index: the whole sentences; no label and no phrase; all else as in ``pair``.
    """
    inside, words = pair.phrase.tolist(), pair.num_nodes
    first = [-1] * len(inside)  # the first word in each node; a left child begins where its phrase does
    for word in range(words):
        node = word
        while node >= 0 and first[node] < 0:
            first[node], node = word, inside[node]
    child = torch.tensor([int(phrase >= 0 and first[node] != first[phrase]) for node, phrase in enumerate(inside)])
    node = (pair.phrase >= 0).nonzero().flatten()
    sentence = pair.sentence[torch.tensor(first)]
    roots = (pair.phrase < 0).nonzero().flatten()
    return _seen(
        pair,
        edge_index=torch.stack([node, pair.phrase[node]]),
        num_nodes=len(inside),
        child=child[node],
        word=pair.word + [None] * (len(inside) - words),
        sentence=sentence,
        root_index=roots[sentence[roots].argsort()],
    )


def chain(pair: Data) -> Data:
    """The pair with each word's edge to the next one of its sentence.

    Returns:
        Data with edge_index ``(2, N - 2)``; root_index ``(2,)``: the last words; first_index ``(2,)``: the first words;
        no label and no phrase; all else as in ``pair``.
    """
    inner = pair.sentence[1:] == pair.sentence[:-1]
    before = inner.nonzero().flatten()
    begin = int((~inner).nonzero()) + 1
    return _seen(
        pair,
        edge_index=torch.stack([before, before + 1]),
        root_index=torch.tensor([begin - 1, pair.num_nodes - 1]),
        first_index=torch.tensor([0, begin]),
    )


def _seen(pair: Data, **fields) -> Data:
    """The pair with other edges; what belongs to the old ones is left out."""
    kept = {key: value for key, value in pair.items() if key not in ("label", "phrase")}
    return Data.from_dict(kept | fields)
