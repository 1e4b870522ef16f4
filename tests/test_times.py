"""mpnn.times: a weight's gradient in few products is the gradient."""

from functools import partial

import pytest
import torch
from compare import assert_close, assert_same, gradients
from strategies import normal

import mpnn
from mpnn import products
from mpnn.products import linear
from mpnn.times import Times

LEVELS = [1, 3, 2, 7, 1, 4]  # rows


@pytest.fixture
def every_size(monkeypatch):
    """Products of any size wait, and not for long; those of float64 are torch's own."""
    monkeypatch.setattr(products, "LARGE", 1)
    monkeypatch.setattr("mpnn.times.MANY", 5)


def leaves(bias=True):
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (sum(LEVELS), 3), "weight": (4, 3), "bias": (4,), "plus": (sum(LEVELS), 4)}
    made = {name: normal(generator, *shape) for name, shape in shapes.items()}
    return made if bias else made | {"bias": None}


def products_of(leaves, plain=False):
    """Level after level; squared, so that gradients differ from row to row."""
    weight, bias = leaves["weight"], leaves["bias"]
    times = partial(linear, weight=weight, bias=bias) if plain else Times(weight, bias)
    pairs = zip(leaves["x"].split(LEVELS), leaves["plus"].split(LEVELS), strict=True)
    return torch.cat([times(x, plus=plus) for x, plus in pairs]).square()


@pytest.mark.usefixtures("every_size")
@pytest.mark.parametrize("many", [1, 5, 1000])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_that_waited_are_those_of_plain_products(bias, many, monkeypatch):
    monkeypatch.setattr("mpnn.times.MANY", many)
    given = leaves(bias)
    assert_same(products_of(given), products_of(given, plain=True), [v for v in given.values() if v is not None])


@pytest.mark.usefixtures("every_size")
def test_the_weights_gradient_is_a_few_products(monkeypatch):
    counted, plain = [], products._of_weight
    monkeypatch.setattr(products, "_of_weight", lambda grad, x: counted.append(len(x)) or plain(grad, x))
    products_of(leaves()).sum().backward()
    assert counted == [5, 7, 5, 1]  # rows of the levels from the last to the first, until there are 5


@pytest.mark.usefixtures("every_size")
def test_narrow_products_that_do_not_wait_count_as_well(monkeypatch):
    monkeypatch.setattr(products, "LARGE", 3 * 12)  # levels of three rows and more
    given = leaves()
    assert_same(products_of(given), products_of(given, plain=True), list(given.values()))


@pytest.mark.usefixtures("every_size")
def test_ways_back_do_not_add_up():
    """Neither two that reach the weight, nor one that ended before it and left its rows."""
    given = leaves()
    out, wanted = products_of(given), gradients(products_of(given, plain=True), list(given.values()))
    torch.autograd.grad(out.sum(), given["x"], retain_graph=True)
    for _ in range(2):
        for found, expected in zip(gradients(out, list(given.values())), wanted, strict=True):
            assert_close(found, expected, "gradient")


@pytest.mark.usefixtures("every_size")
def test_a_way_back_from_some_products_alone():
    given = leaves()
    found, expected = products_of(given)[3:5], products_of(given, plain=True)[3:5]
    assert_same(found, expected, list(given.values()))


@pytest.mark.usefixtures("every_size")
def test_twice_differentiated_it_is_the_same():
    given, second = leaves(), []
    for plain in (True, False):
        first = torch.autograd.grad(products_of(given, plain).sum(), list(given.values()), create_graph=True)
        second.append(torch.autograd.grad(sum(f.square().sum() for f in first), list(given.values())))
    for found, expected in zip(*second, strict=True):
        assert_close(found, expected, "second derivative")


@pytest.mark.usefixtures("every_size")
def test_transforms_of_functions_take_plain_products():
    given = {name: value.detach() for name, value in leaves().items()}

    def loss(weight):
        return products_of(given | {"weight": weight}).sum()

    weight = given["weight"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(products_of(given | {"weight": weight}, plain=True).sum(), weight)
    assert_close(torch.func.grad(loss)(given["weight"]), expected, "gradient")


@pytest.mark.usefixtures("every_size")
def test_a_weight_that_does_not_learn_keeps_nothing():
    given = leaves()
    given["weight"].requires_grad_(False)
    times = Times(given["weight"])
    assert times(given["x"]).requires_grad and times.rows is None
    with torch.no_grad():
        given["weight"].requires_grad_(True)
        assert not times(given["x"]).requires_grad and times.rows is None


@pytest.mark.usefixtures("every_size")
def test_what_is_kept_is_the_weight_as_it_was():
    given = leaves()
    out = products_of(given)
    with torch.no_grad():
        given["weight"].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


LAYERS = {
    "RNN": lambda: mpnn.nn.RNN(3, 4, bidirectional=True),
    "LSTM": lambda: mpnn.nn.LSTM(3, 4, peephole=True),
    "GRU": lambda: mpnn.nn.GRU(3, 4),
    "GRU before": lambda: mpnn.nn.GRU(3, 4, reset="before"),
    "Jordan": lambda: mpnn.nn.Jordan(3, 4, 2),
    "child sum": lambda: mpnn.nn.ChildSumTreeLSTM(3, 4, bidirectional=True),
    "TreeGRU": lambda: mpnn.nn.TreeGRU(3, 4),
    "thread": lambda: mpnn.nn.GraphStructuredLSTM(3, 4),
}
TREE = torch.tensor([[0, 1, 2, 2, 4, 3], [2, 2, 3, 4, 5, 6]])
THREAD = {"parent": torch.tensor([[0, 0, 0, 1, 1], [1, 2, 3, 4, 5]]), "sibling": torch.tensor([[1, 2, 4], [2, 3, 5]])}


@pytest.mark.usefixtures("every_size")
@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_the_gradients_of_the_reference(name, again, monkeypatch):
    torch.manual_seed(0)
    layer, x = LAYERS[name]().double(), torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    edge_index = THREAD if name == "thread" else TREE
    with monkeypatch.context() as plainly, mpnn.engine("reference"):
        plainly.setattr(products, "LARGE", 1 << 40)
        expected = first(layer(x, edge_index))
    with mpnn.engine("wavefront", recompute=again):
        assert_same(first(layer(x, edge_index)), expected, [x, *layer.parameters()])


def first(out):
    return out[0] if isinstance(out, tuple) else out


def test_a_layer_takes_the_gradient_of_its_weight_in_few_products(monkeypatch):
    """At a size where it does so by itself."""
    counted, plain = [], products._of_weight
    monkeypatch.setattr(products, "_of_weight", lambda grad, x: counted.append(len(x)) or plain(grad, x))
    layer, chains = mpnn.nn.RNN(8, 256), torch.arange(20 * 32).view(20, 32)
    edge_index = torch.stack([chains[:-1].flatten(), chains[1:].flatten()])
    with mpnn.engine("wavefront"):
        layer(torch.randn(20 * 32, 8), edge_index).sum().backward()
    assert [n for n in counted if n != 20 * 32] == [512, 96]
