"""How tests compare: outputs and gradients together, with one tolerance for each dtype."""

import torch
from torch import Tensor, nn

TOLERANCE = {torch.float64: dict(rtol=1e-10, atol=1e-12), torch.float32: dict(rtol=1e-5, atol=1e-6)}


def tuple_of(outputs) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def assert_close(ours: Tensor, theirs: Tensor, what: str) -> None:
    torch.testing.assert_close(ours, theirs, **TOLERANCE[theirs.dtype], msg=lambda text: f"{what}: {text}")


def gradients(outputs, leaves: list[Tensor]) -> list[Tensor]:
    """Of a fixed weighted sum of all outputs, in which no two entries have the same weight; zeros where nothing
    flows."""
    total = sum(
        (o * torch.linspace(1, 2, o.numel(), dtype=o.dtype, device=o.device).view_as(o)).sum()
        for o in tuple_of(outputs)
    )
    if not total.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]


def assert_same(ours, theirs, leaves: list[Tensor], their_leaves: list[Tensor] | None = None, what: str = "") -> None:
    """The same outputs, and the same gradients of ``leaves``."""
    ours, theirs = tuple_of(ours), tuple_of(theirs)
    assert len(ours) == len(theirs)
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert_close(a.detach(), b.detach(), f"{what} output {k}")
    found, expected = gradients(ours, leaves), gradients(theirs, leaves if their_leaves is None else their_leaves)
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert_close(a, b.view_as(a), f"{what} gradient {k}")


def assert_golden(
    ours: nn.Module, theirs: nn.Module, names: dict[str, str], *inputs, calls=None, what: str = ""
) -> None:
    """A layer and another library's, given our weights by ``{our name: their name}``, agree in outputs and gradients.

    ``calls`` are what is called in place of the two layers themselves, if their arguments differ.
    """
    our, their = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert set(our) == set(names) and set(their) == set(names.values()), (
        f"not all weights are mapped: {list(our)}, {list(their)}"
    )
    with torch.no_grad():
        for name, parameter in our.items():
            parameter.copy_(torch.randn_like(parameter))  # a bias that stays 0 would be tested by nothing
            their[names[name]].copy_(parameter.view_as(their[names[name]]))
    floats = [v for v in inputs if isinstance(v, Tensor) and v.is_floating_point()]
    for value in floats:
        value.requires_grad_()
    leaves = [*our.values(), *floats]
    their_leaves = [*(their[names[name]] for name in our), *floats]
    our_call, their_call = calls or (ours, theirs)
    assert_same(our_call(*inputs), their_call(*inputs), leaves, their_leaves, what)


def randomised(layer: nn.Module) -> nn.Module:
    """The layer in float64 with no parameter left at a special value such as 0."""
    torch.manual_seed(0)
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return layer
