"""The Lattice LSTM, for characters and the words that they may spell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mpnn.engine import rowwise
from mpnn.features import check_dense, check_features
from mpnn.graph import check_edges
from mpnn.message_passing import MessagePassing
from mpnn.nn.recursive import Recursive, join, times
from mpnn.plan import Plan, plan
from mpnn.products import linear
from mpnn.schedule import Schedule

__all__ = ["LatticeLSTM"]

TYPES = ("next", "begins", "ends")
BLOCKS = {"own": 4, "coupled": 3}  # of a character's weights


class LatticeLSTM(Recursive):
    r"""An LSTM over characters in which every word of a lexicon is a shortcut from its first character to its last.

    .. math::
        i_j, f_j, o_j &= \sigma(W x_j + U h_{j-1} + b), \qquad g_j = \tanh(W_g x_j + U_g h_{j-1} + b_g) \\
        i_w, f_w &= \sigma(W' x_w + U' h_b + b'), \qquad g_w = \tanh(W'_g x_w + U'_g h_b + b'_g), \qquad
        c_w = f_w \odot c_b + i_w \odot g_w \\
        l_w &= \sigma(W^l x_e + U^l c_w + b^l), \qquad
        \alpha_w = \frac{\exp l_w}{\exp i_e + \sum_{w'} \exp l_{w'}}, \qquad
        \alpha_e = \frac{\exp i_e}{\exp i_e + \sum_{w'} \exp l_{w'}} \\
        c_j &= \begin{cases}
            \alpha_j \odot g_j + \sum_w \alpha_w \odot c_w & \text{if words w end at j} \\
            f_j \odot c_{j-1} + i_j \odot g_j & \text{if none does}
        \end{cases}, \qquad h_j = o_j \odot \tanh(c_j)

    for a word w from character b to character e, each gate with its own W, U and b. A word has a cell and no h: so it
    is a step of an LSTM without an output gate. Where words end, :math:`c_{j-1}` is not read, and i is not a share of
    what is stored but a weight against the l, which an exponential of a sigmoid keeps between 1 and e. Without words
    this is the LSTM. The way back, with weights of its own, turns all edges round: a word then leads from its last
    character to its first.

    Characters and words are nodes, with three types of edges: ``next`` from a character to the next, ``begins`` from a
    word's first character to the word, ``ends`` from the word to its last character. A word has one edge in and one
    out, so it runs as what its last character is sent by its first (:func:`joined`), and there are no more levels than
    characters in a row. All run in one pass, and characters of one level fire together, whichever sentence of a batch
    they are in.

    Source: Zhang & Yang 2018, arXiv:1805.02023, in the form in which lecture notes print it, compared with the code of
    its authors (github.com/jiesutd/LatticeLSTM). Deviations: none with ``forget="own"``. That code has no f: where no
    word ends it takes :math:`f_j = 1 - i_j`, and so does ``forget="coupled"``, which is then that code (but for its
    initial weights: orthogonal W, identity U, no bias). That :math:`c_{j-1}` is left out where words end is meant: the
    authors say that with it the results were worse (issue 54 there). On a DAG of characters the states of a node's
    predecessors are added up.

    Args:
        in_features: width of the characters' ``x``.
        hidden_features: width of ``h`` and of ``c``, in each direction.
        word_features: width of the words' ``words``; unless given, that of the characters.
        forget: ``"own"``: a forget gate of its own; ``"coupled"``: 1 - i.
        bidirectional: whether the way back follows; a character's two states are joined.

    Shape:
        x ``(C, F)`` of characters, words ``(W, F')`` of words, edge_index ``{"next": (2, E), "begins": (2, W),
        "ends": (2, W)}`` in the numbers of characters and of words (see :func:`mpnn.lattice.relations`), or a plan of
        the characters' graph (:func:`joined`); schedule: of characters, any under which a word's first fires before its
        last -> h, c of characters ``(C, H)``, with two directions ``(C, 2H)``.

    Attributes:
        weight_ih ``(4H, F)``: W, weight_hh ``(4H, H)``: U, bias ``(4H,)``: gate blocks i, f, g, o, as in
        ``torch.nn.LSTM``, whose two biases are one here; with ``"coupled"`` three blocks i, g, o.
        word_weight_ih ``(3H, F')``: W', word_weight_hh ``(3H, H)``: U', word_bias ``(3H,)``: blocks i, f, g.
        gate_weight_ih ``(H, F)``: W^l, gate_weight_hh ``(H, H)``: U^l, gate_bias ``(H,)``.
        Drawn from U(-1/sqrt(H), 1/sqrt(H)). ``reverse`` has the same of the way back.

    Raises:
        ValueError: ``forget`` is unknown; x or words are sparse or have another width; an edge type is missing, or an
            edge leaves its nodes; a word has not one first and one last character.
        CycleError: characters follow each other in a circle, or a word ends where it begins, or before.

    Example:
        >>> from mpnn.lattice import Lexicon, lattice, relations
        >>> data = lattice("abcd", Lexicon(["abc", "bc"]))
        >>> h, c = LatticeLSTM(3, 4, bidirectional=True)(torch.ones(4, 3), torch.ones(2, 3), relations(data))
        >>> h.shape
        torch.Size([4, 8])
    """

    state = ("h", "c")

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        word_features: int | None = None,
        forget: str = "own",
        bidirectional: bool = False,
    ):
        if forget not in BLOCKS:
            raise ValueError(f"LatticeLSTM: forget={forget!r} is unknown; expected 'own' or 'coupled'.")
        self.forget, self.word_features = forget, in_features if word_features is None else word_features
        H, rows = hidden_features, BLOCKS[forget] * hidden_features
        shapes = {
            "weight_ih": (rows, in_features), "weight_hh": (rows, H), "bias": (rows,),
            "word_weight_ih": (3 * H, self.word_features), "word_weight_hh": (3 * H, H), "word_bias": (3 * H,),
            "gate_weight_ih": (H, in_features), "gate_weight_hh": (H, H), "gate_bias": (H,),
        }  # fmt: skip
        super().__init__(in_features, H, shapes, bidirectional, word_features=self.word_features, forget=forget)

    def forward(self, x: Tensor, words: Tensor, edge_index: Any, *, schedule: Any = None) -> tuple[Tensor, Tensor]:
        ahead = self.laid_out(x, words, edge_index, schedule)
        states = self.one_way(x, words, ahead)
        return states if self.reverse is None else join(states, self.reverse.one_way(x, words, ahead.reverse))

    def one_way(self, x: Tensor, words: Tensor, edge_index: Any, schedule: Any = None) -> tuple[Tensor, Tensor]:
        W, U, b = map(self.four_blocks, (self.weight_ih, self.weight_hh, self.bias))
        return self.propagate(
            edge_index, schedule, z=rowwise(times(W, b), x), U=added_to(U), **self.of_words(x, words)
        )  # fmt: skip

    def of_words(self, x: Tensor, words: Tensor) -> dict[str, Any]:
        """What a word's message asks for, beside the states."""
        return {
            "z_word": linear(words, self.word_weight_ih, self.word_bias),
            "gate": rowwise(times(self.gate_weight_ih, self.gate_bias), x),
            "U_word": added_to(self.word_weight_hh),
            "U_gate": added_to(self.gate_weight_hh),
        }

    def message_next(self, h_j, c_j):
        return h_j, c_j

    def message_word(self, h_j, c_j, z_word, gate_i, U_word, U_gate):
        return word_cell(h_j, c_j, z_word, gate_i, U_word, U_gate)

    def update(self, z, U, message_next=None, message_word=None):
        h, c = message_next or (None, None)
        i, f, g, o = (z if h is None else U(z, h)).chunk(4, dim=1)
        i, g = torch.sigmoid(i), torch.tanh(g)
        new = i * g if c is None else torch.addcmul(i * g, torch.sigmoid(f), c)
        if message_word is not None:
            total, cells = message_word
            own = i.exp()
            new = torch.where(total > 0, torch.addcmul(cells, own, g) / (own + total), new)
        return torch.sigmoid(o) * torch.tanh(new), new

    def four_blocks(self, weight: Tensor) -> Tensor:
        """A character's weights with a forget gate: since 1 - s(a) = s(-a), a coupled one is i with its sign turned."""
        if self.forget == "own":
            return weight
        i, g, o = weight.chunk(3)
        return torch.cat([i, -i, g, o])

    def word_weights(self, x: Tensor, words: Tensor, edge_index: Any, *, schedule: Any = None) -> tuple[Tensor, ...]:
        """What each word adds to the cell of the character in which it ends: the weights :math:`\\alpha_w`.

        Returns:
            ``(W, H)`` of words in their own numbers; with two directions also those of the way back, where words end
            in their first character.
        """
        ahead = self.laid_out(x, words, edge_index, schedule)
        there = self._alpha(x, words, ahead)
        return (there,) if self.reverse is None else (there, self.reverse._alpha(x, words, ahead.reverse))

    def _alpha(self, x: Tensor, words: Tensor, graph: Plan) -> Tensor:
        (h, c), H = self.one_way(x, words, graph), self.hidden_features
        i = linear(x, self.weight_ih[:H], self.bias[:H])
        own = _OwnGate().propagate(graph.edge_index("next"), h=h, i=i, U=added_to(self.weight_hh[:H]))
        return _Shares().propagate(graph.edge_index("word"), h=h, c=c, own=own, **self.of_words(x, words))[1]

    def laid_out(self, x: Tensor, words: Tensor, edge_index: Any, schedule: Any = None) -> Plan:
        """The plan of the characters' graph."""
        self._check_rows(x, words)
        if isinstance(edge_index, Plan):
            self._check_words(words, edge_index)
            return self._plan(edge_index, schedule, len(x))
        return self._plan(edge_index, schedule, (len(x), len(words)), _plan_joined)

    def _check_words(self, words: Tensor, graph: Plan) -> None:
        if len(words) != (count := len(graph.edges["word"])):
            raise ValueError(
                f"LatticeLSTM: words has {len(words)} rows, but the plan has {count} words; expected one row for each. "
                "Pass the words of the lattice that was planned, or plan this one."
            )

    def _check_types(self, edge_index: Any) -> None:
        given = tuple(edge_index) if isinstance(edge_index, Mapping) else ("",)
        if set(given) != set(TYPES):
            raise ValueError(
                f"LatticeLSTM: a lattice has the edge types {TYPES}, but was given the edge types {given}; pass "
                "edge_index as {type: (2, E)}, as mpnn.lattice.relations makes it."
            )

    def _check_rows(self, x: Tensor, words: Tensor) -> None:
        name = type(self).__name__
        check_dense(name, x)
        check_features(name, x, self.in_features)
        check_dense(f"{name}, words", words)
        if words.shape[-1] != self.word_features:
            raise ValueError(
                f"{name}: words have {words.shape[-1]} features each, shape {tuple(words.shape)}; expected "
                f"{self.word_features}. Make the layer with word_features={words.shape[-1]}, or pass other features."
            )


def added_to(weight: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """``z, h -> z + h W^T``."""
    return lambda z, h: linear(h, weight, plus=z)


def word_cell(h: Tensor, c: Tensor, z: Tensor, gate: Tensor, U_word: Callable, U_gate: Callable) -> tuple:
    """What a word weighs where it ends, and that times its cell; from the state of its first character."""
    i, f, g = U_word(z, h).chunk(3, dim=1)
    cell = torch.addcmul(torch.sigmoid(i) * torch.tanh(g), torch.sigmoid(f), c)
    weight = opened(U_gate(gate, cell))
    return weight, weight * cell


def opened(gate: Tensor) -> Tensor:
    """What a gate weighs against others: the exponential of its sigmoid."""
    return torch.sigmoid(gate).exp()


class _OwnGate(MessagePassing):
    """What the input gate of each character weighs, once the states are known."""

    def message(self, h_j):
        return h_j

    def update(self, i, U, message):
        return opened(U(i, message))


class _Shares(MessagePassing):
    """The weight of each word where it ends, beside the other words and the character's input gate."""

    def message(self, h_j, c_j, z_word, gate_i, U_word, U_gate):
        return word_cell(h_j, c_j, z_word, gate_i, U_word, U_gate)[0]

    def edge_update(self, message, message_i, own_i):
        return message / (own_i + message_i)


def joined(edge_index: Mapping[str, Tensor], num_characters: int, num_words: int) -> dict[str, Tensor]:
    """A lattice as a graph of its characters: ``next``, and ``word`` with an edge for each word, in the order of words,
    from its first character to its last.

    Raises:
        ValueError: an edge leaves its nodes; a word has not one first and one last character.

    Example:
        >>> onward, same = torch.tensor([[0], [1]]), torch.tensor([[0], [0]])
        >>> edges = {"next": onward, "begins": same, "ends": onward}  # one word, from character 0 to character 1
        >>> {kind: pair.flatten().tolist() for kind, pair in joined(edges, 2, 1).items()}
        {'next': [0, 1], 'word': [0, 1]}
    """
    C, W = num_characters, num_words
    for kind, size in (("next", C), ("begins", (C, W)), ("ends", (W, C))):
        check_edges(f"LatticeLSTM (edge type {kind!r})", edge_index[kind], size)
    begins, ends = edge_index["begins"], edge_index["ends"]
    for kind, word, which in (("begins", begins[1], "first"), ("ends", ends[0], "last")):
        count = torch.bincount(word, minlength=W)
        if bool((count != 1).any()):
            first = int((count != 1).nonzero()[0])
            raise ValueError(
                f"LatticeLSTM: word {first} has {int(count[first])} {kind!r} edges; expected one, for a word has one "
                f"{which} character. {int((count != 1).sum())} of {W} words have another number. Make a word node for "
                "each place where a word stands, as mpnn.lattice.lattice does."
            )
    first, last = begins[0][begins[1].argsort()], ends[1][ends[0].argsort()]
    return {"next": edge_index["next"], "word": torch.stack([first, last])}


def _plan_joined(edge_index: Any, schedule: Schedule, size: tuple[int, int], owner: str) -> Plan:
    return plan(joined(edge_index, *size), schedule, size[0], owner)
