"""Lattices: a sequence of characters with the words that some of them may spell.

A lattice is a ``HeteroData`` with nodes of the types ``character`` and ``word`` and edges ``(character, next,
character)``, ``(character, begins, word)`` and ``(word, ends, character)``. Characters and words are any hashable
things: letters and words, words and phrases, sounds and syllables.

Example:
    >>> data = lattice("南京市长江大桥", Lexicon(["南京", "南京市", "市长", "长江", "大桥", "长江大桥"]))
    >>> data["word"].token
    ['南京', '南京市', '市长', '长江', '长江大桥', '大桥']
    >>> relations(data)["ends"].tolist()
    [[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 6, 6]]

With networkx, where a node is a character or a word by an attribute, and so is the type of an edge:

    >>> import networkx as nx, mpnn
    >>> graph = nx.DiGraph()
    >>> graph.add_nodes_from("ab", kind="character")
    >>> graph.add_node("ab", kind="word")
    >>> for a, b, relation in [("a", "b", "next"), ("a", "ab", "begins"), ("ab", "b", "ends")]:
    ...     graph.add_edge(a, b, relation=relation)
    >>> relations(mpnn.from_networkx(graph, node_type="kind", edge_type="relation"))["ends"].tolist()
    [[0], [1]]
"""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mpnn.graphs import chain

__all__ = ["Lexicon", "jieba_words", "lattice", "levels", "relations"]

EDGES = {
    "next": ("character", "next", "character"),
    "begins": ("character", "begins", "word"),
    "ends": ("word", "ends", "character"),
}
END = object()  # marks a node of the trie at which a word ends


class Lexicon:
    """Words to be found in sequences, as a trie: a search costs a step a character and match, however many words.

    Args:
        words: sequences of characters (strings, or tuples of any hashables). Those of fewer than ``shortest``
            characters are left out: a word of one character would be a shortcut from it to itself.
        shortest: the length of the shortest word, 2 or more.

    Raises:
        ValueError: ``shortest`` is below 2.

    Example:
        >>> known = Lexicon(["ab", "abc", "bc", "c"])
        >>> len(known), list(known.matches("xabc"))
        (3, [(1, 2, 'ab'), (1, 3, 'abc'), (2, 3, 'bc')])
        >>> list(Lexicon([("New", "York")]).matches(["in", "New", "York"]))
        [(1, 2, ('New', 'York'))]
    """

    def __init__(self, words: Iterable[Sequence[Hashable]], shortest: int = 2):
        if shortest < 2:
            raise ValueError(f"Lexicon: shortest={shortest}; expected 2 or more, for a word must end after it begins.")
        self.root: dict = {}
        self.size = 0
        for word in words:
            if len(word) >= shortest:
                self._add(word)

    def _add(self, word: Sequence[Hashable]) -> None:
        node = self.root
        for character in word:
            node = node.setdefault(character, {})
        self.size += END not in node
        node[END] = word

    def __len__(self) -> int:
        return self.size

    def matches(self, characters: Sequence[Hashable]) -> Iterator[tuple[int, int, Sequence[Hashable]]]:
        """Every place where a word stands: ``(first, last, word)``, by first, then by last."""
        for first in range(len(characters)):
            node = self.root
            for last in range(first, len(characters)):
                node = node.get(characters[last])
                if node is None:
                    break
                if END in node:
                    yield first, last, node[END]


def jieba_words(min_frequency: int = 0) -> Iterator[str]:
    """The words of the dictionary that the package jieba has (349,046, Chinese).

    Args:
        min_frequency: how often a word must have been seen, as that dictionary counts.

    Raises:
        ImportError: ``jieba`` is not installed.
    """
    found = importlib.util.find_spec("jieba")
    if found is None:
        raise ImportError("jieba_words: its dictionary is in the package jieba; pip install 'mpnn[lattice]'.")
    with (Path(found.origin).parent / "dict.txt").open(encoding="utf-8") as lines:
        for line in lines:
            word, frequency, *_ = line.split()
            if int(frequency) >= min_frequency:
                yield word


def lattice(characters: Sequence[Hashable], words: Lexicon | Iterable[Sequence[Hashable]]) -> HeteroData:
    """A sequence as a chain of characters, with a node for every place where a word stands.

    Args:
        characters: a string, or a sequence of hashables.
        words: the lexicon, or its words (make a :class:`Lexicon` once to use it often).

    Returns:
        HeteroData with token, a list of the characters or words, and level ``(.,)`` int64 on both types of nodes;
        edge_index of the three types. Words are in the order of their first characters, then of their last.

    Example:
        >>> data = lattice("abc", ["ab", "abc"])
        >>> data["word"].token, data["character", "begins", "word"].edge_index.tolist()
        (['ab', 'abc'], [[0, 0], [0, 1]])
    """
    lexicon = words if isinstance(words, Lexicon) else Lexicon(words)
    found = list(lexicon.matches(characters))
    first, last = (torch.tensor([match[k] for match in found], dtype=torch.long) for k in (0, 1))
    place, word = torch.arange(len(characters)), torch.arange(len(found))
    data = HeteroData()
    data["character"].num_nodes, data["word"].num_nodes = len(characters), len(found)
    data["character"].token, data["word"].token = list(characters), [match[2] for match in found]
    data["character"].level, data["word"].level = 2 * place, 2 * first + 1
    data[EDGES["next"]].edge_index = chain(len(characters)).edge_index
    data[EDGES["begins"]].edge_index = torch.stack([first, word])
    data[EDGES["ends"]].edge_index = torch.stack([word, last])
    return data


def relations(data: HeteroData) -> dict[str, Tensor]:
    """The edges of a lattice, or of a batch of lattices, as :class:`mpnn.nn.LatticeLSTM` takes them: by type, in the
    numbers of characters and of words. A type that the data has not is empty: there may be no words.

    Raises:
        ValueError: the data has other types of edges.
    """
    for kind in data.edge_types:
        if kind not in EDGES.values():
            known = ", ".join(map(str, EDGES.values()))
            raise ValueError(f"relations: the edge type {kind} is none of a lattice's; expected {known}.")
    known = {name: data[kind].edge_index for name, kind in EDGES.items() if kind in data.edge_types}
    none = next(iter(known.values()), torch.empty(2, 0, dtype=torch.long))[:, :0]
    return {name: known.get(name, none) for name in EDGES}


def levels(data: HeteroData) -> Tensor:
    """The levels of characters, then of words, ``(C + W,)``: character k has 2k, a word 2b + 1 if it begins at b.

    As schedule ``mpnn.schedule.by(levels(data))`` of layers in which words have states too, they give frontiers of
    characters alone and of words alone. :class:`mpnn.nn.LatticeLSTM` asks for those of characters only:
    ``mpnn.schedule.by(data["character"].level)``.
    """
    return torch.cat([data["character"].level, data["word"].level])
