"""The Lattice LSTM, for characters and the words that they may spell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpnn.features import check_dense, check_features
from mpnn.graph import check_edges
from mpnn.message_passing import MessagePassing
from mpnn.nn.recursive import Recursive, join, times
from mpnn.plan import Plan, plan
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
    word's first character to the word, ``ends`` from the word to its last character. All run in one pass, and nodes of
    one level fire together, whichever sentence of a batch they are in. Under the level that
    :func:`mpnn.lattice.lattice` notes, a frontier holds characters alone or words alone, which is a little faster than
    ``topological``; the result is the same.

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
        the joined graph (:func:`joined`); schedule: any under which sources fire before their targets
        -> h, c of characters ``(C, H)``, with two directions ``(C, 2H)``.

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
        ahead, back = self.laid_out(x, words, edge_index, schedule)
        states = self.one_way(x, words, ahead)
        if self.reverse is not None:
            states = join(states, self.reverse.one_way(x, words, back))
        return tuple(state[: len(x)] for state in states)

    def one_way(self, x: Tensor, words: Tensor, edge_index: Any, schedule: Any = None) -> tuple[Tensor, Tensor]:
        """The states of characters, then of words."""
        W, U, b = map(self.four_blocks, (self.weight_ih, self.weight_hh, self.bias))
        z_words = F.linear(words, self.word_weight_ih, self.word_bias)
        z = torch.cat([F.linear(x, W, b), self.without_output(z_words)])
        gate = F.linear(x, self.gate_weight_ih, self.gate_bias)
        return self.propagate(
            edge_index, schedule, z=z, gate=torch.cat([gate, gate.new_zeros(len(words), gate.shape[1])]),
            U=times(U), U_word=times(self.word_weight_hh), U_gate=times(self.gate_weight_hh),
        )  # fmt: skip

    def message_next(self, h_j, c_j, U):
        return U(h_j), c_j

    def message_begins(self, h_j, c_j, U_word):
        return self.without_output(U_word(h_j)), c_j

    def message_ends(self, c_j, gate_i, U_gate):
        weight = opened(gate_i + U_gate(c_j))
        return weight, weight * c_j

    def update(self, z, message_next=None, message_begins=None, message_ends=None):
        c = None
        for product, before in filter(None, (message_next, message_begins)):
            z, c = z + product, before if c is None else c + before
        i, f, g, o = z.chunk(4, dim=1)
        i, g = torch.sigmoid(i), torch.tanh(g)
        new = i * g if c is None else torch.addcmul(i * g, torch.sigmoid(f), c)
        if message_ends is not None:
            total, cells = message_ends
            own = i.exp()
            new = torch.where(total > 0, torch.addcmul(cells, own, g) / (own + total), new)
        return torch.sigmoid(o) * torch.tanh(new), new

    def four_blocks(self, weight: Tensor) -> Tensor:
        """A character's weights with a forget gate: since 1 - s(a) = s(-a), a coupled one is i with its sign turned."""
        if self.forget == "own":
            return weight
        i, g, o = weight.chunk(3)
        return torch.cat([i, -i, g, o])

    def without_output(self, blocks: Tensor) -> Tensor:
        """A word's blocks i, f, g as wide as a character's; its h is read by nobody."""
        return F.pad(blocks, (0, self.hidden_features))

    def word_weights(self, x: Tensor, words: Tensor, edge_index: Any, *, schedule: Any = None) -> tuple[Tensor, ...]:
        """What each word adds to the cell of the character in which it ends: the weights :math:`\\alpha_w`.

        Returns:
            ``(W, H)`` of words in their own numbers; with two directions also those of the way back, where words end
            in their first character.
        """
        plans, layers = self.laid_out(x, words, edge_index, schedule), (self, self.reverse)
        return tuple(layer._alpha(x, words, plan) for layer, plan in zip(layers, plans) if layer is not None)

    def _alpha(self, x: Tensor, words: Tensor, graph: Plan) -> Tensor:
        h, c = self.one_way(x, words, graph)
        C, H, next_, ends = len(x), self.hidden_features, graph.edge_index("next"), graph.edge_index("ends")
        i = F.linear(x, self.weight_ih[:H], self.bias[:H])
        own = _OwnGate().propagate(next_, h=h[:C], i=i, U=times(self.weight_hh[:H]))
        gate = F.linear(x, self.gate_weight_ih, self.gate_bias)
        fields = {"c": c, "gate": gate, "own": own, "U_gate": times(self.gate_weight_hh)}
        _, alpha = _Shares().propagate(ends, num_nodes=(len(c), C), **fields)
        return torch.empty_like(alpha).index_copy(0, ends[0] - C, alpha)

    def laid_out(self, x: Tensor, words: Tensor, edge_index: Any, schedule: Any = None) -> tuple[Plan, Plan | None]:
        """The plan of the joined graph, and that of the way back if there is one."""
        self._check_rows(x, words)
        if isinstance(edge_index, Plan):
            ahead = self._plan(edge_index, schedule, len(x) + len(words))
        else:
            ahead = self._plan(edge_index, schedule, (len(x), len(words)), _plan_joined)
        back = None if self.reverse is None else ahead.remember("way back", lambda: _way_back(ahead))
        return ahead, back

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


def opened(gate: Tensor) -> Tensor:
    """What a gate weighs against others: the exponential of its sigmoid."""
    return torch.sigmoid(gate).exp()


class _OwnGate(MessagePassing):
    """What the input gate of each character weighs, once the states are known."""

    def message(self, h_j):
        return h_j

    def update(self, i, U, message):
        return opened(i + U(message))


class _Shares(MessagePassing):
    """The weight of each word where it ends, beside the other words and the character's input gate."""

    def message(self, c_j, gate_i, U_gate):
        return opened(gate_i + U_gate(c_j))

    def edge_update(self, message, message_i, own_i):
        return message / (own_i + message_i)


def joined(edge_index: Mapping[str, Tensor], num_characters: int, num_words: int) -> dict[str, Tensor]:
    """The edges of a lattice over one set of nodes: first all characters, then all words.

    Raises:
        ValueError: an edge leaves its nodes; a word has not one first and one last character.

    Example:
        >>> onward, same = torch.tensor([[0], [1]]), torch.tensor([[0], [0]])
        >>> edges = {"next": onward, "begins": same, "ends": onward}  # one word, from character 0 to character 1
        >>> {kind: pair.flatten().tolist() for kind, pair in joined(edges, 2, 1).items()}
        {'next': [0, 1], 'begins': [0, 2], 'ends': [2, 1]}
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
    shift = begins.new_tensor([[0], [C]])
    return {"next": edge_index["next"], "begins": begins + shift, "ends": ends + shift.flip(0)}


def _plan_joined(edge_index: Any, schedule: Schedule, size: tuple[int, int], owner: str) -> Plan:
    return plan(joined(edge_index, *size), schedule, sum(size), owner)


def _way_back(ahead: Plan) -> Plan:
    """The turned pass: what a word ends in is then what it begins with."""
    edges = ahead.given
    swapped = {"next": edges["next"], "begins": edges["ends"], "ends": edges["begins"]}
    return plan(swapped, ahead.schedule.reverse, ahead.num_nodes)
