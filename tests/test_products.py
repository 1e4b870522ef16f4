"""mpnn.products: the product that oneDNN takes, against torch's own, with derivatives."""

import pytest
import torch
from torch.autograd import forward_ad

from mpnn import products
from mpnn.products import linear

SHAPES = [(2000, 30, 20), (1000, 20, 30), (64, 150, 150), (17, 300, 300)]  # the second is too small for oneDNN to pay


@pytest.fixture
def every_size(monkeypatch):
    """oneDNN takes products of any size."""
    monkeypatch.setattr(products, "LARGE", 1)


def factors(n, f, g, requires_grad=True):
    generator = torch.Generator().manual_seed(0)
    shapes = [(n, f), (g, f), (g,), (n, g)]
    return [torch.randn(shape, generator=generator).requires_grad_(requires_grad) for shape in shapes]


def plain(x, weight, bias, plus):
    out = x @ weight.t()
    out = out if bias is None else out + bias
    return out if plus is None else out + plus


def exact(values):
    return [value.detach().double().requires_grad_() for value in values]


@pytest.mark.usefixtures("every_size")
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_plus", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("copied", [products.COPIED, 0])
def test_a_product_and_its_gradients_are_those_of_double_precision(copied, shape, with_plus, with_bias, monkeypatch):
    monkeypatch.setattr(products, "COPIED", copied)
    values = factors(*shape)
    cut = [True, True, with_bias, with_plus]
    ours = [v if c else None for v, c in zip(values, cut, strict=True)]
    theirs = [v if c else None for v, c in zip(exact(values), cut, strict=True)]
    found, expected = linear(*ours), plain(*theirs)
    assert isinstance(found.grad_fn, torch.autograd.function.BackwardCFunction)  # it was oneDNN
    grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad(found, [v for v in ours if v is not None], grad)
    wanted = torch.autograd.grad(expected, [v for v in theirs if v is not None], grad.double())
    for a, b in zip([found, *got], [expected, *wanted], strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5 * float(b.detach().abs().max()))


@pytest.mark.usefixtures("every_size")
def test_factors_may_be_cut_out_of_others_turned_or_expanded():
    wide = torch.randn(12, 9, generator=torch.Generator().manual_seed(0))
    for x, weight, plus in [
        (wide[:, 2:6], wide[:5, 3:7], wide[:, 4:]),
        (wide.t()[:, :4], wide[:4, :6].t(), wide[:9, :1].expand(9, 6)),
        (wide[:1, :4].expand(7, 4), wide[:2, :4], wide[0, :2].expand(7, 2)),
    ]:
        leaves, theirs = [v.detach().requires_grad_() for v in (x, weight, plus)], exact((x, weight, plus))
        found, expected = linear(*leaves[:2], plus=leaves[2]), plain(theirs[0], theirs[1], None, theirs[2])
        got = torch.autograd.grad(found.sum(), leaves)  # its gradient is one number, expanded
        wanted = torch.autograd.grad(expected.sum(), theirs)
        for a, b in zip([found, *got], [expected, *wanted], strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("every_size")
def test_second_derivatives_are_there():
    def curvature(take, values):
        x, weight, bias, plus = values
        first = torch.autograd.grad(torch.tanh(take(x, weight, bias, plus)).sum(), [x, weight], create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in first), values)

    values = [0.1 * v.detach() for v in factors(5, 4, 3)]
    found = curvature(linear, [v.requires_grad_() for v in values])
    for a, b in zip(found, curvature(plain, exact(values)), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_size_decides_who_takes_a_product(shape):
    x, weight, bias, plus = factors(*shape)
    n, f, g = shape
    kind = type(linear(x, weight, bias, plus).grad_fn).__name__
    assert (kind == "_LinearBackward") == (n * f * g >= products.LARGE)


@pytest.mark.usefixtures("every_size")
def test_other_dtypes_and_transforms_have_torchs_own_product():
    x, weight, bias, plus = factors(3, 4, 2)
    assert "_Linear" not in type(linear(x.double(), weight.double()).grad_fn).__name__
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
        assert linear(x, weight, plus=plus).shape == (3, 2)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach(), torch.ones(3, 4))
        tangent = forward_ad.unpack_dual(linear(dual, weight.detach())).tangent
    torch.testing.assert_close(tangent, torch.ones(3, 4) @ weight.detach().t())
    jacobian = torch.func.jacfwd(lambda w: linear(x.detach(), w))(weight.detach())
    assert jacobian.shape == (3, 2, 2, 4)


@pytest.mark.usefixtures("every_size")
def test_gradients_that_nobody_asks_for_are_not_computed():
    x, weight, bias, plus = factors(3, 4, 2, requires_grad=False)
    found = linear(x, weight.requires_grad_(), bias, plus)
    assert torch.autograd.grad(found.sum(), weight)[0].shape == (2, 4)
    assert not linear(x, weight.detach(), bias, plus).requires_grad


@pytest.mark.usefixtures("every_size")
def test_there_may_be_no_rows():
    x, weight, bias, plus = factors(0, 4, 2)
    found = linear(x, weight, bias, plus)
    assert found.shape == (0, 2)
    found.sum().backward()
    assert not weight.grad.any()
