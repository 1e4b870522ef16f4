"""Backpropagation through time and real-time recurrent learning, each derived by hand, and what the library gives."""

import re
from pathlib import Path

import pytest
import torch
import torch.autograd.forward_ad as forward
from compare import assert_close

import mpnn
from mpnn.graphs import chain
from mpnn.nn import RNN

T, F, H = 7, 3, 4
NAMES = ("weight_hh_l0", "weight_ih_l0", "bias_ih_l0", "bias_hh_l0")
DERIVATIVE = {"tanh": lambda z: 1 - torch.tanh(z) ** 2, "relu": lambda z: (z > 0).to(z.dtype)}
either = pytest.mark.parametrize("nonlinearity", DERIVATIVE)


def setting(nonlinearity: str):
    """A network, inputs, and the weights of the loss L = sum_t L_t, L_t = v_t . h_t + |h_t|^2 / 2."""
    torch.manual_seed(0)
    net = RNN(F, H, nonlinearity=nonlinearity).double()
    x, v = torch.randn(T, F, dtype=torch.float64), torch.randn(T, H, dtype=torch.float64)
    return net, x, v


def loss(h, v):
    return (v * h).sum() + (h**2).sum() / 2


def weights(net):
    return [getattr(net, name).detach() for name in NAMES]


def states(net, x):
    """z_t = U h_{t-1} + W x_t + b and h_t = f(z_t), for t = 1, ..., T; h[0] = 0 and x[0] = 0 stand before them."""
    U, W, b, b_ = weights(net)
    f = {"tanh": torch.tanh, "relu": torch.relu}[net.nonlinearity]
    z, h, x = [None], [torch.zeros(H, dtype=x.dtype)], [None, *x]
    for t in range(1, T + 1):
        z.append(U @ h[t - 1] + W @ x[t] + b + b_)
        h.append(f(z[t]))
    return z, h, x


def by_autograd(net, x, v, way: str | None = None):
    def backward():
        value = loss(net(x, chain(T).edge_index), v)
        return torch.autograd.grad(value, [getattr(net, name) for name in NAMES])

    if way is None:
        return backward()
    with mpnn.engine(way):
        return backward()


def by_bptt(net, x, v):
    """delta_{t,k} = dL_t / dz_k, from k = t back to 1; sums over t and k <= t."""
    U, _, _, _ = weights(net)
    z, h, x = states(net, x)
    d = DERIVATIVE[net.nonlinearity]
    dU, dW, db = torch.zeros(H, H).double(), torch.zeros(H, F).double(), torch.zeros(H).double()
    for t in range(1, T + 1):
        delta = d(z[t]) * (v[t - 1] + h[t])  # delta_{t,t} = diag(f'(z_t)) dL_t / dh_t
        for k in range(t, 0, -1):
            dU += torch.outer(delta, h[k - 1])
            dW += torch.outer(delta, x[k])
            db += delta
            if k > 1:
                delta = torch.diag(d(z[k - 1])) @ U.t() @ delta  # delta_{t,k-1} from delta_{t,k}
    return dU, dW, db, db


def by_rtrl(net, x, v):
    """dh_t / dtheta, carried along with the state: no step is looked back on. (H, parameters), a column for each."""
    U, W, b, b_ = weights(net)
    z, h, x = states(net, x)
    d, sizes = DERIVATIVE[net.nonlinearity], [U.numel(), W.numel(), H, H]
    influence, gradient = torch.zeros(H, sum(sizes)).double(), torch.zeros(sum(sizes)).double()
    eye = torch.eye(H).double()
    for t in range(1, T + 1):
        direct = torch.cat([torch.kron(eye, h[t - 1][None]), torch.kron(eye, x[t][None]), eye, eye], dim=1)
        influence = torch.diag(d(z[t])) @ (U @ influence + direct)
        gradient += influence.t() @ (v[t - 1] + h[t])  # L_t is added as soon as it is known
    return [part.view(w.shape) for part, w in zip(gradient.split(sizes), (U, W, b, b_), strict=True)]


def by_forward_mode(net, x, v):
    """One pass with dual numbers for each parameter, through the library's own layer."""
    given = {name: value.detach() for name, value in net.named_parameters()}

    def slope(name, direction):
        with forward.dual_level(), mpnn.engine("reference"):
            dual = given | {name: forward.make_dual(given[name], direction)}
            h = torch.func.functional_call(net, dual, (x, chain(T).edge_index))
            return forward.unpack_dual(loss(h, v)).tangent

    def gradient(name):
        directions = torch.eye(given[name].numel(), dtype=x.dtype).view(-1, *given[name].shape)
        return torch.stack([slope(name, direction) for direction in directions]).view_as(given[name])

    return [gradient(name) for name in NAMES]


def compare(found, expected):
    for name, ours, theirs in zip(NAMES, found, expected, strict=True):
        assert theirs.abs().max() > 1e-3
        assert_close(ours, theirs, name)


@either
@pytest.mark.parametrize("way", [None, "wavefront", "reference"])
def test_backpropagation_through_time_is_autograd(nonlinearity, way):
    net, x, v = setting(nonlinearity)
    compare(by_autograd(net, x, v, way), by_bptt(net, x, v))


@either
def test_real_time_recurrent_learning_gives_the_same_gradient(nonlinearity):
    net, x, v = setting(nonlinearity)
    compare(by_autograd(net, x, v), by_rtrl(net, x, v))


@either
def test_real_time_recurrent_learning_is_forward_mode_differentiation(nonlinearity):
    net, x, v = setting(nonlinearity)
    compare(by_forward_mode(net, x, v), by_rtrl(net, x, v))


def test_jacfwd_takes_all_parameters_at_once():
    net, x, v = setting("tanh")
    plan = mpnn.plan(chain(T), "topological")

    def value(parameters):
        with mpnn.engine("reference"):
            return loss(torch.func.functional_call(net, parameters, (x, plan)), v)

    found = torch.func.jacfwd(value)({name: p.detach() for name, p in net.named_parameters()})
    compare([found[name] for name in NAMES], by_rtrl(net, x, v))


def test_other_ways_refuse_forward_mode():
    net, x, v = setting("tanh")
    with forward.dual_level(), mpnn.engine("wavefront"), pytest.raises(NotImplementedError, match="jvp"):
        weight = net.weight_hh_l0.detach()
        dual = {"weight_hh_l0": forward.make_dual(weight, torch.ones_like(weight))}
        torch.func.functional_call(net, dual, (x, chain(T).edge_index))


def test_the_gradients_of_a_step_ever_earlier_shrink_or_grow_by_gamma():
    """With z in the linear range of the rectifier and U = gamma I, |delta_{t,k}| = gamma^(t-k) |delta_{t,t}|."""
    for gamma in (0.5, 1.0, 2.0):
        net = RNN(F, H, nonlinearity="relu").double()
        with torch.no_grad():
            net.weight_hh_l0.copy_(gamma * torch.eye(H))
            net.weight_ih_l0.abs_()
            net.bias_ih_l0.abs_()
            net.bias_hh_l0.abs_()
        x = torch.rand(T, F, dtype=torch.float64, requires_grad=True)
        h = net(x, chain(T).edge_index)
        of_x = torch.autograd.grad(h[-1].sum(), x)[0]  # W^T delta_{T,k}
        for k in range(T):
            assert_close(of_x[k], gamma ** (T - 1 - k) * of_x[-1], f"gamma={gamma}, k={k}")


def test_the_programs_of_the_page_run():
    page = (Path(__file__).parent.parent / "docs" / "learning.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    assert len(programs) >= 2
    names: dict = {"__name__": "learning"}
    for program in programs:
        exec(compile(program, "learning.md", "exec"), names)
