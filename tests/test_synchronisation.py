"""After planning a pass never waits for the device: it asks no tensor for a value, and for no shape that hangs on one.

There is no device here on which waiting could be seen, so every operation of a pass is looked at instead, forwards and
backwards: those that hand a value to Python, those whose result has as many rows as a tensor says, and tensors made of
Python numbers, which are copied to a device while the host waits. The engine's ways for a CPU are those that run, so
what runs on a device alone is not seen.
"""

import contextlib
import sys
from collections import Counter
from functools import wraps
from pathlib import Path

import pytest
import torch
from test_conformance import Row, call, dressed, every_row, leaves_of, made
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from zoo import graphs

import mpnn

WAITS = {  # operations of aten, by the name without the overload
    "_local_scalar_dense", "is_nonzero", "item", "equal", "nonzero", "nonzero_static", "masked_select", "bincount",
    "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive",
}  # fmt: skip
HOST_ONLY = {"_local_scalar_dense at nn/aggr.py"}  # how many messages are in each step, which torch wants on the host
TO_PYTHON = {"tolist", "numpy", "__array__", "cpu", "item", "__bool__", "__int__", "__float__", "__index__"}
FROM_PYTHON = {"tensor", "as_tensor", "new_tensor", "from_numpy", "asarray"}


LIBRARY = Path(mpnn.__file__).parent
INDEXING = {"__getitem__", "__setitem__"}


def by_list(index) -> bool:
    """Whether an index has numbers that become a tensor."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, (list, tuple, range)) for part in parts)


def here() -> str:
    """The file of the library that is at work."""
    frame = sys._getframe(1)
    while frame and not Path(frame.f_code.co_filename).is_relative_to(LIBRARY):
        frame = frame.f_back
    return str(Path(frame.f_code.co_filename).relative_to(LIBRARY)) if frame else "?"


class Waits(contextlib.ExitStack):
    """Counts, while it is entered, what would wait for a device, by operation and line."""

    def __init__(self):
        super().__init__()
        self.found = found = Counter()

        class Python(TorchFunctionMode):
            def __torch_function__(self, function, types, args=(), kwargs=None):
                name = getattr(function, "__name__", "")
                if name in TO_PYTHON | FROM_PYTHON or (name in INDEXING and by_list(args[1])):
                    found[f"{name} at {here()}"] += 1
                return function(*args, **(kwargs or {}))

        class Aten(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                name = function._schema.name.removeprefix("aten::")
                by_mask = name.startswith("index") and any(
                    part is not None and part.dtype in (torch.bool, torch.uint8)
                    for part in (args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ())
                )
                counted = function._schema.overload_name == "Tensor" and (kwargs or {}).get("output_size") is None
                if name in WAITS or by_mask or (name == "repeat_interleave" and counted):
                    found[f"{name} at {here()}"] += 1
                return function(*args, **(kwargs or {}))

        self.enter_context(Python())
        self.enter_context(Aten())


def replayed(layer: nn.Module, row: Row, data, schedule: str):
    """The library's own layer, called again with what it was given in a first call, and what gradients are taken of.

    The table's stand-ins make the graphs that they hand on anew each time, so that they would be planned each time.
    """
    owner = next((c for c in type(layer).__mro__ if c.__module__.startswith("mpnn.") and "forward" in vars(c)), None)
    if owner is None:
        return lambda: call(layer, row, data, schedule), leaves_of(layer, row, data)
    given, forward = [], owner.forward

    @wraps(forward)
    def caught(self, *args, **kwargs):
        if self is layer and not given:
            given.append((args, kwargs))
        return forward(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, "forward", caught)
        call(layer, row, data, schedule)
    flat, shape = tree_flatten(given[0])
    flat = [value.detach().requires_grad_() if is_real(value) else value for value in flat]
    args, kwargs = tree_unflatten(flat, shape)
    return lambda: forward(layer, *args, **kwargs), [*layer.parameters(), *filter(is_real, flat)]


def is_real(value) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def train(run, leaves: list[Tensor], grads: list[Tensor] | None = None) -> list[Tensor]:
    out = [value for value in tree_leaves(run()) if is_real(value) and value.requires_grad]
    grads = grads or [torch.ones_like(value) for value in out]
    torch.autograd.grad(out, leaves, grads, allow_unused=True)
    return grads


def waits(run, leaves: list[Tensor]) -> Counter:
    """Of a third pass, when all that is made when first asked for is there."""
    grads = train(run, leaves)
    train(run, leaves)
    with Waits() as watched:
        train(run, leaves, grads)
    return watched.found


@every_row
def test_after_planning_no_pass_waits_for_the_device(row):
    layer, found = made(row, torch.float32), Counter()
    for schedule in row.schedules:
        data = dressed(graphs()["random dag"], row, torch.float32)
        data.batch = torch.zeros(data.num_nodes, dtype=torch.long)
        found += waits(*replayed(layer, row, data, schedule))
    assert not found.keys() - HOST_ONLY, dict(found)


class Asks(mpnn.MessagePassing):
    """A layer that does in a hook what is asked of it."""

    def __init__(self, ask, aggr="sum"):
        super().__init__(aggr)
        self.ask = ask

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=x)

    def message(self, x_j):
        return x_j * self.ask(x_j)


class Backwards(torch.autograd.Function):
    """Asks on the way back alone."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * grad.abs().max().item()


ASKED = {
    "_local_scalar_dense": lambda x: x.sum().item(),
    "__bool__": lambda x: 2.0 if (x > 0).any() else 1.0,
    "tolist": lambda x: sum(x.sum(0).tolist()),
    "nonzero": lambda x: (x[:, 0] > 0).nonzero().sum(),
    "index": lambda x: x[x > 0].sum(),
    "index_put_": lambda x: x.clone().index_put_((x[:, 0] > 0,), x.new_zeros(1, x.shape[1])),
    "repeat_interleave": lambda x: torch.ones(2).repeat_interleave(torch.tensor([1, 2])).sum(),
    "tensor": lambda x: torch.tensor([1.0, 2.0]).sum(),
    "__getitem__": lambda x: x[:, [0, 1]].sum(),
    "equal": lambda x: float(torch.equal(x, x)),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_waits_is_found(name):
    x, edge_index = torch.randn(4, 2, requires_grad=True), torch.tensor([[0, 1, 2], [1, 2, 3]])
    layer = Asks(ASKED[name])
    assert name in {what.partition(" at ")[0] for what in waits(lambda: layer(x, edge_index), [x])}


def test_what_waits_on_the_way_back_is_found_and_a_pass_that_does_not_wait_has_none():
    x, edge_index = torch.randn(4, 2, requires_grad=True), torch.tensor([[0, 1, 2], [1, 2, 3]])
    calm, asks = Asks(lambda x: x.sum(0)), Asks(Backwards.apply)
    assert not waits(lambda: calm(x, edge_index), [x])
    assert any(what.startswith("_local_scalar_dense") for what in waits(lambda: asks(x, edge_index), [x]))
