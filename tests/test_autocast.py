"""Every layer trains under autocast to bfloat16: it runs forward and backward, and comes close to float32.

bfloat16 has 8 bits, so that a product is wrong by up to 0.4 %; over the twelve levels of a long chain that adds up.
Stated tolerance, over the largest value of a tensor where that is above 1: 5 % for outputs, 10 % for gradients; a
gradient may be further off if it is as sensitive in float32.
"""

import pytest
import torch
from compare import gradients
from test_conformance import Row, call, cases, every_row, leaves_of, made
from torch import nn

import mpnn
from mpnn import kernels, products
from mpnn.nn.agc_lstm import stages
from mpnn.spacetime import skeleton
from mpnn.times import Times

OUTPUTS, GRADIENTS = 0.05, 0.1
GRAPHS = ("empty", "random dag", "random")  # of the zoo; all of it takes minutes


def as_float32(row: Row):
    """The layer in float32, and the cases of its row."""
    layer = made(row, torch.float32)
    for name, schedule, data in cases(row):
        if name.split(", ")[1] not in GRAPHS:
            continue
        for field in ("x", *row.takes):
            data[field] = data[field].float()
        yield name, schedule, layer, data


def away(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest difference, over the largest value where that is above 1."""
    if not exact.numel():
        return 0.0
    return float((found.detach().float() - exact.detach()).abs().max() / exact.detach().abs().max().clamp(min=1))


def sensitivity(layer, row: Row, data, schedule: str, leaves: list, expected: list) -> float:
    """How far gradients move in float32 when weights and inputs move by the 0.4 % to which bfloat16 rounds.

    Where a score stands close to the kink of a leaky ReLU that is far, in whatever precision.
    """
    kept, furthest = [leaf.detach().clone() for leaf in leaves], 0.0
    for seed in range(6):
        torch.manual_seed(seed)
        with torch.no_grad():
            for leaf, value in zip(leaves, kept, strict=True):
                leaf.copy_(value * (1 + 2**-8 * (2 * torch.rand_like(value) - 1)))
        moved = gradients(call(layer, row, data, schedule), leaves)
        furthest = max(furthest, *(away(a, b) for a, b in zip(moved, expected, strict=True)))
    with torch.no_grad():
        for leaf, value in zip(leaves, kept, strict=True):
            leaf.copy_(value)
    return furthest


@every_row
def test_forward_and_backward_under_autocast_are_close_to_float32(row):
    for name, schedule, layer, data in as_float32(row):
        leaves = leaves_of(layer, row, data)
        exact = call(layer, row, data, schedule)
        expected = gradients(exact, leaves)
        with torch.autocast("cpu", torch.bfloat16):
            out = call(layer, row, data, schedule)
            inside = gradients(out, leaves)
        found = gradients(tuple(value.float() for value in out), leaves)
        assert all(grad.isfinite().all() for grad in inside), name
        assert max(away(a, b) for a, b in zip(out, exact, strict=True)) < OUTPUTS, name
        worst = max((away(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)
        assert worst < GRADIENTS or worst < 4 * sensitivity(layer, row, data, schedule, leaves, expected), name
        assert all(grad.dtype == leaf.dtype for grad, leaf in zip(found, leaves, strict=True)), name


def models():
    """What is made of layers of the table, with what it is called on, and how its result becomes a tensor."""
    torch.manual_seed(0)
    moving, chain = skeleton(torch.randn(8, 3, 2), [(0, 1), (1, 2)]), mpnn.graphs.chain(5).edge_index
    cell, pair = mpnn.nn.LSTM(4, 6), mpnn.nn.sequence_pair([3, 4, 5], [5, 4, 3], begin=1, end=2)
    words = [nn.Embedding(7, 4) for _ in range(2)]
    attention = mpnn.nn.LuongAttention(6, 6)
    network, parts = mpnn.nn.AGCLSTMNetwork(2, 8, classes=5).eval(), mpnn.nn.AGCLSTMNetwork(4, 8, classes=5).eval()
    coarse = skeleton(torch.randn(8, 2, 4), [(0, 1)])
    two = moving.x, stages(moving), coarse.x, stages(coarse)
    return {
        "network": (network, two[:2], lambda out: out.probabilities()),
        "two streams": (mpnn.nn.TwoStreamAGCLSTM(network, parts), two, lambda out: out),
        "encoder": (
            mpnn.nn.EncoderDecoder(words[0], cell, words[1], mpnn.nn.LSTM(4, 6), nn.Linear(6, 7), attention),
            (pair,), lambda out: out,
        ),
        "language": (
            mpnn.nn.LanguageModel(words[0], cell, nn.Linear(6, 7)),
            (torch.tensor([1, 2, 3, 4, 5]), chain), lambda out: out[0],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["network", "two streams", "encoder", "language"])
def test_models_made_of_several_layers_train_under_autocast(name):
    model, given, values = models()[name]
    weights = dict(model.named_parameters())
    exact = values(model(*given))
    expected = gradients(exact, list(weights.values()))
    with torch.autocast("cpu", torch.bfloat16):
        out = values(model(*given))
    assert away(out, exact) < OUTPUTS
    for weight, grad, other in zip(weights, gradients(out.float(), list(weights.values())), expected, strict=True):
        assert (grad - other).norm() <= GRADIENTS * other.norm() + 1e-6, weight
    assert sum(bool(grad.any()) for grad in expected) > 0.9 * len(weights)  # there is something to compare


# What stands aside while autocast is on -------------------------------------------------------------------------------


def by_autocast(run, *leaves):
    """A result under autocast, and its gradients, which are taken outside of it."""
    with torch.autocast("cpu", torch.bfloat16):
        out = run()
    return [out, *gradients(out, list(leaves))]


def test_large_products_are_autocasts_own(monkeypatch):
    """Be they taken level by level or by oneDNN: their dtype, their values and their gradients."""
    monkeypatch.setattr(products, "LARGE", 1)
    x, weight, plus = (torch.randn(*size, requires_grad=True) for size in ((4, 3), (5, 3), (4, 5)))
    expected = by_autocast(lambda: torch.addmm(plus, x, weight.t()), x, weight, plus)
    assert expected[0].dtype == torch.bfloat16
    for run in (lambda: products.linear(x, weight, plus=plus), lambda: Times(weight)(x, plus)):
        for found, wanted in zip(by_autocast(run, x, weight, plus), expected, strict=True):
            assert found.dtype == wanted.dtype
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("weighted", [True, False])
def test_sums_over_edges_are_taken_in_the_dtype_of_the_values(weighted, monkeypatch):
    """Also where they are products with a sparse matrix, which autocast would narrow on one side."""
    monkeypatch.setattr(kernels, "FEW", 0)
    plan = mpnn.plan(torch.tensor([[0, 1, 2, 2], [1, 1, 0, 2]]), num_nodes=3)
    x, weight = torch.randn(3, 2, requires_grad=True), torch.randn(4, requires_grad=True)
    expected = kernels.weighted_sum(plan.edges[""], weight if weighted else None, x)
    leaves = [x, weight] if weighted else [x]
    found = by_autocast(lambda: kernels.weighted_sum(plan.edges[""], weight if weighted else None, x), *leaves)
    assert found[0].dtype == torch.float32
    for a, b in zip(found, [expected, *gradients(expected, leaves)], strict=True):
        assert torch.equal(a, b)


# The kink of an attention ---------------------------------------------------------------------------------------------


class Watched(mpnn.nn.HAN):
    """Notes how close to the kink of the leaky ReLU its scores come."""

    nearest = torch.inf

    def attention(self, src_j, dst_i, hidden):
        self.nearest = min(self.nearest, float((src_j + dst_i).detach().abs().min()))
        return super().attention(src_j, dst_i, hidden)


@pytest.mark.parametrize("slope", [0.2, 1.0])
def test_gradients_of_han_are_those_of_float32_where_no_score_is_at_the_kink(slope):
    """At the kink they are not, as rounding takes a score to its other side: there they are up to 0.78 off, as those of
    torch_geometric's HANConv are, up to 0.69. With a slope of 1 there is no kink.
    """
    paths, compared = [("p", "a", "p"), ("p", "b", "p")], 0
    for seed in range(60):
        torch.manual_seed(seed)
        x, edges = torch.randn(6, 6), {path: torch.randint(6, (2, count)) for path, count in zip(paths, (8, 6))}
        layer = Watched(6, 4, paths, heads=2, attention_features=8, negative_slope=slope)
        leaves, out = list(layer.parameters()), layer({"p": x}, edges)["p"]
        if layer.nearest < 0.02 and slope != 1:
            continue
        compared += 1
        with torch.autocast("cpu", torch.bfloat16):
            half = layer({"p": x}, edges)["p"]
        pairs = zip(gradients(half.float(), leaves), gradients(out, leaves), strict=True)
        assert max(away(found, exact) for found, exact in pairs) < GRADIENTS, seed
    assert compared > 20
