import pytest
import torch
from compare import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import digraphs, normal, priorities, seeds
from torch import nn
from torch_geometric.nn import aggr as geometric

import mpnn
from mpnn.aggr import REFUSED, resolve
from mpnn.nn import LSTMAggregation

F = 4
MAKE = {  # those that need arguments; all others are made without
    "MultiAggregation": lambda: geometric.MultiAggregation(["sum", "std", "median"]),
    "QuantileAggregation": lambda: geometric.QuantileAggregation([0.25, 0.5]),
    "SoftmaxAggregation": lambda: geometric.SoftmaxAggregation(learn=True),
    "PowerMeanAggregation": lambda: geometric.PowerMeanAggregation(learn=True),
    "LSTMAggregation": lambda: geometric.LSTMAggregation(F, F),
    "GRUAggregation": lambda: geometric.GRUAggregation(F, F),
    "Set2Set": lambda: geometric.Set2Set(F, 3),
    "DegreeScalerAggregation": lambda: geometric.DegreeScalerAggregation(
        ["mean", "max"],
        ["identity", "amplification", "attenuation", "linear", "inverse_linear"],
        torch.tensor([0, 2, 3, 1]),
    ),
    "SortAggregation": lambda: geometric.SortAggregation(3),
    "GraphMultisetTransformer": lambda: geometric.GraphMultisetTransformer(F, k=2, heads=2),
    "AttentionalAggregation": lambda: geometric.AttentionalAggregation(nn.Linear(F, 1), nn.Linear(F, F)),
    "EquilibriumAggregation": lambda: geometric.EquilibriumAggregation(F, F, [8]),
    "MLPAggregation": lambda: geometric.MLPAggregation(F, F, max_num_elements=4, num_layers=1),
    "DeepSetsAggregation": lambda: geometric.DeepSetsAggregation(nn.Linear(F, F), nn.Linear(F, F)),
    "SetTransformerAggregation": lambda: geometric.SetTransformerAggregation(F, num_seed_points=2, heads=2),
    "LCMAggregation": lambda: geometric.LCMAggregation(F, F),
    "PatchTransformerAggregation": lambda: geometric.PatchTransformerAggregation(F, F, patch_size=2, hidden_channels=8),
}
NAMES = [name for name in geometric.__all__ if name != "Aggregation"]


def moves(module: nn.Module) -> bool:
    """Whether results of some nodes change when another node with more messages, larger ones, joins them."""
    found = False
    for seed, index in enumerate(([0, 0, 0, 1, 1], [0, 0, 2, 2, 2], [0, 1, 2, 2, 2])):  # node 1 of the second has none
        torch.manual_seed(seed)
        index = torch.tensor(index)
        num_nodes = int(index.max()) + 1
        x, more = torch.randn(5, F).double(), 10 + 3 * torch.randn(7, F).double()
        torch.manual_seed(0)  # some draw a starting point
        alone = module(x, index=index, dim_size=num_nodes, dim=0)
        torch.manual_seed(0)
        joined = torch.cat([index, torch.full((7,), num_nodes)])
        together = module(torch.cat([x, more]), index=joined, dim_size=num_nodes + 1, dim=0)[:num_nodes]
        found |= not torch.allclose(alone, together, rtol=1e-9, atol=1e-12, equal_nan=True)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_exactly_those_aggregations_are_refused_whose_result_moves_with_other_nodes(name):
    torch.manual_seed(0)
    module = MAKE.get(name, getattr(geometric, name))().double()
    if moves(module):
        with pytest.raises(ValueError, match=f"Layer: aggr={name} is refused"):
            resolve("Layer", module)
    else:
        assert name not in REFUSED
        assert resolve("Layer", module) == (name, module)


def test_our_own_lstm_is_accepted_and_does_not_move():
    module = LSTMAggregation(F, F).double()
    assert resolve("Layer", module) == ("LSTMAggregation", module)
    assert not moves(module)


def test_a_refused_aggregation_is_found_inside_another_and_under_another_name():
    inside = geometric.MultiAggregation([geometric.SumAggregation(), geometric.GRUAggregation(F, F)])
    with pytest.raises(ValueError, match="aggr=GRUAggregation is refused"):
        resolve("Layer", inside)
    with pytest.raises(ValueError, match="aggr=LSTMAggregation is refused.*use mpnn.nn.LSTMAggregation"):
        resolve("Layer", type("Mine", (geometric.LSTMAggregation,), {})(F, F))


def test_names_are_resolved():
    assert resolve("Layer", "add")[0] == resolve("Layer", "sum")[0] == "sum"
    assert isinstance(resolve("Layer", "max")[1], geometric.MaxAggregation)


@pytest.mark.parametrize(
    "aggr, error, says",
    [
        ("total", ValueError, "Layer: aggr='total' is unknown; expected 'sum', 'mean'"),
        ("set2set", ValueError, "Layer: aggr='set2set' needs arguments of its own; pass the object"),
        (sum, TypeError, "Layer: aggr is a builtin_function_or_method; expected a name"),
    ],
)
def test_what_is_no_aggregation_is_refused_with_what_would_be(aggr, error, says):
    with pytest.raises(error, match=says):
        resolve("Layer", aggr)


@settings(max_examples=25)
@given(graph=digraphs(min_nodes=1), data=st.data(), seed=seeds)
def test_the_mean_is_that_of_torch_geometric(graph, data, seed):
    class Send(mpnn.MessagePassing):
        state, hidden_features = ("h",), 2

        def message(self, h_j, flat_j, heads_j):
            return h_j, flat_j, heads_j

        def update(self, h, message):
            return h + message[0] + message[1][:, None] + message[2].sum(1)

    generator, n = torch.Generator().manual_seed(seed), graph.num_nodes
    fields = {"h": normal(generator, n, 2), "flat": normal(generator, n), "heads": normal(generator, n, 3, 2)}
    for rule in ("synchronous", mpnn.schedule.ordered(data.draw(priorities(n)))):
        ours, theirs = (
            Send(aggr).propagate(graph.edge_index, rule, **fields) for aggr in ("mean", geometric.MeanAggregation())
        )
        with mpnn.engine("reference"):
            defined = Send("mean").propagate(graph.edge_index, rule, **fields)
        assert_same(ours, theirs, list(fields.values()))
        assert_same(ours, defined, list(fields.values()))


def test_what_is_kept_of_an_index_is_worked_out_again_when_it_is_written_to():
    module, x, index = LSTMAggregation(F, 3), torch.randn(5, F), torch.tensor([0, 0, 1, 2, 2])
    for num_nodes in (3, 5):
        assert torch.equal(module(x, index, dim_size=num_nodes), module(x, index.clone(), dim_size=num_nodes))
    index.copy_(torch.tensor([4, 4, 4, 0, 1]))
    assert torch.equal(module(x, index, dim_size=5), module(x, index.clone(), dim_size=5))
