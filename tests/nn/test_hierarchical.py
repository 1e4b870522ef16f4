"""Hierarchical attention beside the paper's equations, one step at a time, and beside a padded implementation."""

import pytest
import torch
from compare import assert_close, assert_same, randomised
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch_geometric.data import Batch

import mpnn
from mpnn.documents import document
from mpnn.loader import DataLoader
from mpnn.nn import ContextAttention, HierarchicalAttention
from mpnn.nn.hierarchical import _bare

WORD, SENTENCE = ("word", "in", "sentence"), ("sentence", "in", "document")
shapes = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=4)  # words by sentence
SOME = [[3, 1, 5], [2], [1, 1], [4, 2, 2, 6]]


def documents(shape):
    return [document([["w"] * words for words in sentences]) for sentences in shape]


def batched(shape):
    (batch,) = DataLoader(documents(shape), batch_size=len(shape))
    return batch


def run(layer, x, data):
    return layer({"word": x}, data.edge_index_dict, data.num_nodes_dict)


# The paper, word by word ----------------------------------------------------------------------------------------------


def paper_gru(gru, x, way):
    """Eq. 1-4; the biases of W and of U are apart, as in torch."""
    w = {n: getattr(gru, f"{n}_l0{way}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    (W_r, W_z, W_h), (U_r, U_z, U_h) = w["weight_ih"].chunk(3), w["weight_hh"].chunk(3)
    (b_r, b_z, b_h), (c_r, c_z, c_h) = w["bias_ih"].chunk(3), w["bias_hh"].chunk(3)
    h, states = torch.zeros_like(b_r), []
    for x_t in x:
        z = torch.sigmoid(W_z @ x_t + U_z @ h + b_z + c_z)
        r = torch.sigmoid(W_r @ x_t + U_r @ h + b_r + c_r)
        candidate = torch.tanh(W_h @ x_t + r * (U_h @ h + c_h) + b_h)
        h = (1 - z) * candidate + z * h  # torch's z; the paper's is 1 - z
        states.append(h)
    return states


def paper_level(gru, attention, x):
    """Eq. 5-7, and 8-10 a level higher: what a row of vectors becomes, and the weights."""
    forward, backward = paper_gru(gru, x, ""), paper_gru(gru, x[::-1], "_reverse")[::-1]
    h = [torch.cat(both) for both in zip(forward, backward, strict=True)]
    score = [torch.tanh(attention.project.weight @ h_t + attention.project.bias) @ attention.query for h_t in h]
    total = sum(torch.exp(one) for one in score)
    alpha = [torch.exp(one) / total for one in score]
    return sum(a * h_t for a, h_t in zip(alpha, h, strict=True)), alpha


def paper(layer, x, shape):
    """Document vectors, sentence vectors, weights of words and of sentences."""
    rows, v, s, of_words, of_sentences = list(x), [], [], [], []
    for sentences in shape:
        inside = []
        for words in sentences:
            vector, alpha = paper_level(layer.read["word"], layer.weigh["word"], rows[:words])
            rows = rows[words:]
            inside.append(vector)
            of_words += alpha
        vector, alpha = paper_level(layer.read["sentence"], layer.weigh["sentence"], inside)
        v.append(vector)
        s += inside
        of_sentences += alpha
    return tuple(map(torch.stack, (v, s, of_words, of_sentences)))


def everything(layer, x, data):
    made, alpha = run(layer, x, data), layer.weights({"word": x}, data.edge_index_dict, data.num_nodes_dict)
    return made["document"], made["sentence"], alpha[WORD], alpha[SENTENCE]


@given(shapes, seeds)
def test_equals_the_papers_equations(shape, seed):
    layer = randomised(HierarchicalAttention(3, 2, 4))
    data = batched(shape)
    x = normal(torch.Generator().manual_seed(seed), data["word"].num_nodes, 3)
    leaves = [*layer.parameters(), x]
    assert_same(everything(layer, x, data), paper(layer, x, shape), leaves)


# A padded implementation ----------------------------------------------------------------------------------------------


class PaddedLevel(nn.Module):
    def __init__(self, in_features, hidden_features, attention_features):
        super().__init__()
        self.gru = nn.GRU(in_features, hidden_features, bidirectional=True, batch_first=True)
        self.project = nn.Linear(2 * hidden_features, attention_features)
        self.query = nn.Parameter(torch.empty(attention_features))

    def forward(self, x, lengths):
        """Padded rows (B, T, F) and their lengths -> (B, 2H)."""
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        h, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        score = torch.tanh(self.project(h)) @ self.query
        mask = torch.arange(x.shape[1]) < lengths[:, None]
        alpha = score.masked_fill(~mask, -torch.inf).softmax(1)
        return (alpha[:, :, None] * h).sum(1)


class Padded(nn.Module):
    """Documents by sentences by words, filled up with zeros."""

    def __init__(self, in_features, hidden_features, attention_features):
        super().__init__()
        self.word = PaddedLevel(in_features, hidden_features, attention_features)
        self.sentence = PaddedLevel(2 * hidden_features, hidden_features, attention_features)

    def forward(self, x, shape):
        lengths = torch.tensor([words for sentences in shape for words in sentences])
        sentences = self.word(pad_sequence(x.split(lengths.tolist()), batch_first=True), lengths)
        counts = torch.tensor([len(sentences) for sentences in shape])
        return self.sentence(pad_sequence(sentences.split(counts.tolist()), batch_first=True), counts)


def padded_of(layer, *sizes):
    """The padded model with the layer's weights, and its parameters in the layer's order."""
    theirs = Padded(*sizes).double()
    names = {}
    for level in ("word", "sentence"):
        names |= {f"read.{level}.{n}": f"{level}.gru.{n}" for n, _ in layer.read[level].named_parameters()}
        names |= {f"weigh.{level}.{n}": f"{level}.{n}" for n, _ in layer.weigh[level].named_parameters()}
    ours, known = dict(layer.named_parameters()), dict(theirs.named_parameters())
    assert set(names) == set(ours) and set(names.values()) == set(known)
    with torch.no_grad():
        for name, other in names.items():
            known[other].copy_(ours[name])
    return theirs, [known[names[name]] for name in ours]


@given(shapes, seeds)
def test_equals_a_padded_implementation(shape, seed):
    layer = randomised(HierarchicalAttention(3, 4, 5))
    theirs, weights = padded_of(layer, 3, 4, 5)
    data = batched(shape)
    x = normal(torch.Generator().manual_seed(seed), data["word"].num_nodes, 3)
    ours = run(layer, x, data)["document"]
    assert_same(ours, theirs(x, shape), [*layer.parameters(), x], [*weights, x])


# As a layer -----------------------------------------------------------------------------------------------------------


def test_a_batch_gives_what_documents_give_one_by_one():
    layer, generator = randomised(HierarchicalAttention(3, 2)), torch.Generator().manual_seed(0)
    alone = documents(SOME)
    for data in alone:
        data["word"].x = normal(generator, data["word"].num_nodes, 3, grad=False)
    batch = Batch.from_data_list(alone)
    one_by_one = [everything(layer, data["word"].x, data) for data in alone]
    for together, *parts in zip(everything(layer, batch["word"].x, batch), *one_by_one, strict=True):
        assert_close(together, torch.cat(parts), "batch")


def test_all_sentences_run_at_once_by_torchs_kernels():
    data, layer = batched(SOME), HierarchicalAttention(3, 2)
    for level in ("word", "sentence"):
        chain, size = data[level, "next", level].edge_index, data[level].num_nodes
        assert mpnn.explain(chain, layer.read[level], num_nodes=size).layers[""][1] == "packed"
    into = mpnn.explain(data[WORD].edge_index, layer.weigh["word"], num_nodes=(data["word"].num_nodes, 10))
    assert into.layers[""][1] == "small"


def test_every_way_of_running_agrees():
    layer, data = randomised(HierarchicalAttention(3, 2)), batched(SOME)
    x = normal(torch.Generator().manual_seed(0), data["word"].num_nodes, 3)
    with mpnn.engine("reference"):
        expected = run(layer, x, data)["document"]
    leaves = [*layer.parameters(), x]
    assert_same(run(layer, x, data)["document"], expected, leaves)
    with mpnn.engine("wavefront"):
        assert_same(run(layer, x, data)["document"], expected, leaves)


def test_the_containers_of_torch_geometric_are_taken_as_they_are():
    layer, data = randomised(HierarchicalAttention(3, 2)), batched(SOME)
    data["word"].x = normal(torch.Generator().manual_seed(0), data["word"].num_nodes, 3, grad=False)
    out = mpnn.apply(layer, data)
    assert torch.equal(out["document"].x, run(layer, data["word"].x, data)["document"])
    assert out["sentence"].x.shape == (10, 4) and torch.equal(out["word"].x, data["word"].x)


def test_levels_may_be_more_and_have_other_names():
    """Three levels of which the lowest has one node in each: their weights are 1."""
    layer = randomised(HierarchicalAttention(3, 2, levels=("character", "word", "sentence")))
    assert layer.read["word"].in_features == 4 and set(layer.weigh) == {"character", "word"}
    one = torch.arange(3)
    edges = {
        ("character", "in", "word"): torch.stack([one, one]),
        ("word", "next", "word"): mpnn.graphs.chain(3).edge_index,
        ("word", "in", "sentence"): torch.stack([one, torch.zeros_like(one)]),
    }
    x, numbers = {"character": normal(torch.Generator().manual_seed(0), 3, 3)}, {"word": 3, "sentence": 1}
    assert layer.weights(x, edges, numbers)["character", "in", "word"].tolist() == [1, 1, 1]
    made = layer(x, edges, numbers)
    alone = layer.read["character"](x["character"], torch.empty(2, 0, dtype=torch.long))
    assert_close(made["word"], alone, "words")
    sentence, _ = paper_level(layer.read["word"], layer.weigh["word"], list(alone))
    assert_close(made["sentence"][0], sentence, "sentence")


def test_one_level_is_none():
    with pytest.raises(ValueError, match=r"levels=\('word',\); expected two or more"):
        HierarchicalAttention(3, 2, levels=("word",))


def test_what_is_empty_is_named():
    layer, data = HierarchicalAttention(3, 2), batched([[2, 3], [1]])
    edges, numbers, x = data.edge_index_dict, data.num_nodes_dict, {"word": torch.ones(6, 3)}
    for _ in range(2):  # the second time from the cache
        with pytest.raises(ValueError, match=r"sentence 3 has no word.*1 of 4 have none"):
            layer(x, edges, numbers | {"sentence": 4})
    moved = edges | {WORD: torch.tensor([[0, 1, 2, 3, 4, 5], [0, 0, 2, 2, 2, 2]])}
    with pytest.raises(ValueError, match=r"sentence 1 has no word"):
        layer(x, moved, numbers)
    with pytest.raises(ValueError, match=r"document 2 has no sentence.*\('sentence', 'in', 'document'\)"):
        layer(x, edges, numbers | {"document": 3})
    with pytest.raises(ValueError, match="document 0 has no sentence.*2 of 2"):
        layer(x, {kind: some for kind, some in edges.items() if kind != SENTENCE}, numbers)


def test_no_documents_give_no_vectors():
    none = dict.fromkeys(("sentence", "document"), 0)
    assert run(HierarchicalAttention(3, 2), torch.empty(0, 3), _Without(none))["document"].shape == (0, 4)


class _Without:
    edge_index_dict: dict = {}

    def __init__(self, num_nodes_dict):
        self.num_nodes_dict = num_nodes_dict


def test_dropout_is_on_what_goes_up_and_in_training_alone():
    torch.manual_seed(0)
    layer, data = randomised(HierarchicalAttention(3, 2, dropout=0.5)), batched(SOME)
    x = normal(torch.Generator().manual_seed(0), data["word"].num_nodes, 3, grad=False)
    first, second = run(layer, x, data), run(layer, x, data)
    assert torch.equal(first["sentence"], second["sentence"])
    assert not torch.allclose(first["document"], second["document"])
    layer.eval()
    assert torch.equal(run(layer, x, data)["document"], run(layer, x, data)["document"])


def test_plans_stand_in_for_edges():
    layer, data = randomised(HierarchicalAttention(3, 2)), batched(SOME)
    x, edges, numbers = normal(torch.Generator().manual_seed(0), 27, 3), data.edge_index_dict, data.num_nodes_dict
    plans = {
        (a, name, b): mpnn.plan(index, "topological", numbers[a])
        if name == "next"
        else mpnn.plan(index, "synchronous", (numbers[a], numbers[b]))
        for (a, name, b), index in edges.items()
    }
    leaves = [*layer.parameters(), x]
    assert_same(layer({"word": x}, plans, numbers)["document"], run(layer, x, data)["document"], leaves)
    ours, theirs = (layer.weights({"word": x}, some, numbers)[WORD] for some in (plans, edges))
    assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="sentence 1 has no word"):
        bare = mpnn.plan(torch.tensor([[0, 1], [0, 2]]), num_nodes=(2, 3))
        layer({"word": x[:2]}, {WORD: bare}, {"sentence": 3, "document": 1})


# The attention alone --------------------------------------------------------------------------------------------------


def test_weights_are_in_the_order_of_the_edges_and_sum_to_one_at_each_target():
    attend, h = randomised(ContextAttention(3)), normal(torch.Generator().manual_seed(0), 4, 3, grad=False)
    edges = torch.tensor([[3, 0, 2, 1, 0], [1, 0, 1, 0, 1]])
    alpha = attend.weights(h, edges, (4, 2))
    score = torch.tanh(h @ attend.project.weight.t() + attend.project.bias) @ attend.query
    for target in (0, 1):
        into = edges[1] == target
        assert_close(alpha[into], score[edges[0, into]].softmax(0), f"weights into {target}")
    summed = torch.zeros(2, 3).double().index_add(0, edges[1], alpha[:, None] * h[edges[0]])
    assert_close(attend(h, edges, (4, 2)), summed, "sums")


def test_large_scores_do_not_overflow():
    attend = ContextAttention(1, 1).double()
    with torch.no_grad():
        attend.project.weight.fill_(1), attend.project.bias.fill_(0), attend.query.fill_(5000)
    h, edges = torch.tensor([[4.0], [4.0], [-4.0]]).double(), torch.tensor([[0, 1, 2], [0, 0, 0]])
    assert attend.weights(h, edges, (3, 1)).tolist() == [0.5, 0.5, 0.0]


def test_a_target_without_sources_is_zero():
    out = ContextAttention(3)(torch.ones(2, 3), torch.tensor([[0, 1], [2, 2]]), (2, 3))
    assert out[:2].abs().max() == 0
    torch.testing.assert_close(out[2], torch.ones(3))


def test_while_torch_compiles_it_is_still_looked_up_what_is_empty(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    attend, edges = ContextAttention(3), torch.tensor([[0, 1], [2, 2]])
    assert attend.plan(edges, (2, 3), _bare) == (0, 2)  # nothing is in two of the upper nodes, the first is 0
