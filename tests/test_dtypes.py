"""Arguments of another dtype than the weights: named, for every layer, with both dtypes and both ways out."""

import pytest
import torch
from test_conformance import call, every_row, made
from test_hostile import setting
from torch import nn

import mpnn

CHAIN = torch.tensor([[0, 1], [1, 2]])
HALVES = [torch.float16, torch.bfloat16]
NAMES = {torch.float32: ".float()", torch.float64: ".double()"} | {half: f".to({half})" for half in HALVES}


@pytest.mark.parametrize("own", [torch.float32, torch.float64], ids=str)
@every_row
def test_features_of_another_dtype_are_named_wherever_torch_stops(row, own):
    schedule, data = setting(row)
    other = torch.float32 if own == torch.float64 else torch.float64
    given = {name: data[name] for name in row.takes}
    given = {name: value.to(own) if value.is_floating_point() else value for name, value in given.items()}
    try:
        call(made(row).to(own), row, data, schedule, x=data.x.to(other), **given)
    except Exception as error:
        assert type(error) is TypeError, f"{row.name}: {error}"
        assert f": x has dtype {other}, but the weights have {own}; expected the same. Pass x{NAMES[own]}" in str(error)


@pytest.mark.parametrize("other", [torch.float64, *HALVES], ids=str)
@pytest.mark.parametrize("layer", [mpnn.nn.GCN(3, 3), mpnn.nn.LSTM(3, 3), mpnn.nn.GAT(3, 1, heads=3)], ids=str)
def test_the_error_has_layer_argument_dtypes_and_both_ways_out(layer, other):
    x, name = torch.ones(3, 3), type(layer).__name__
    words = rf"^{name}: x has dtype {other}, but the weights have torch.float32; expected .* Pass x.float\(\), or call"
    with pytest.raises(TypeError, match=words) as raised:
        layer(x.to(other), CHAIN)
    assert str(raised.value).endswith(f"call {NAMES[other]} of the layer.")
    assert isinstance(raised.value.__cause__, RuntimeError)  # torch's own words are kept


def test_any_argument_is_named_by_its_name_and_place():
    x, h0 = torch.ones(3, 3), torch.zeros(1, 1, 4).double()
    with pytest.raises(TypeError, match="GRU: h0 has dtype torch.float64, but the weights have torch.float32"):
        mpnn.nn.GRU(3, 4)(x, CHAIN, h0=h0)
    with pytest.raises(TypeError, match=r"GraphSAGE: x\[0\] has dtype torch.float64, but .* Pass x\[0\].float\(\), or"):
        mpnn.nn.GraphSAGE(3, 4)((x.double(), x), CHAIN)


class Lazy(mpnn.MessagePassing):
    """A layer whose weights learn their width from the first features."""

    def __init__(self):
        super().__init__()
        self.linear = nn.LazyLinear(2)

    def forward(self, x, edge_index, **more):
        return self.propagate(edge_index, x=x, **more)

    def message(self, x_j):
        return self.linear(x_j)


def test_a_layer_of_the_users_with_lazy_weights_is_told_too():
    with pytest.raises(TypeError, match="Lazy: x has dtype torch.float64, but the weights have torch.float32"):
        Lazy()(torch.ones(3, 3).double(), CHAIN)
    layer = Lazy()
    assert layer(torch.ones(3, 3), CHAIN).shape == (3, 2)


def test_under_autocast_nothing_is_refused():
    layer, x = mpnn.nn.LSTM(3, 4), torch.ones(3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        for given in (x, x.bfloat16()):
            assert layer(given, CHAIN)[0].shape == (3, 4)


class Failing(mpnn.MessagePassing):
    def __init__(self, words):
        super().__init__()
        self.linear, self.words = nn.Linear(3, 3), words

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=x)

    def message(self, x_j):
        raise RuntimeError(self.words)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="^a dtype of one's own"):
        Failing("a dtype of one's own")(torch.ones(3, 3), CHAIN)
    with pytest.raises(RuntimeError, match="^out of luck"):
        Failing("out of luck")(torch.ones(3, 3).double(), CHAIN)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="^a dtype"):
        Failing("a dtype")(torch.ones(3, 3).double(), CHAIN)


def test_a_compiler_that_breaks_a_layer_in_pieces_gives_the_same():
    layer, x = mpnn.nn.LSTM(3, 4), torch.randn(3, 3)
    compiled = torch.compile(layer, backend="eager")
    torch.testing.assert_close(compiled(x, CHAIN)[0], layer(x, CHAIN)[0])
