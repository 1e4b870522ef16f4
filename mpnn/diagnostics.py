r"""What reaches what: Jacobian norms against distance, and how alike the states of neighbours become with depth.

================================ ======================================================= ==============================
question                         function                                                picture
================================ ======================================================= ==============================
do gradients vanish or explode?  :func:`state_sensitivity`, :func:`gamma`                :func:`plot_sensitivity`
is a graph over-squashed?        :func:`input_sensitivity`                               :func:`plot_sensitivity`
is a deep network over-smoothed? :func:`dirichlet_energy`, :func:`energies`              :func:`plot_energies`
what is attended to?             :func:`attention`
================================ ======================================================= ==============================

Example:
    >>> import mpnn
    >>> _ = torch.manual_seed(0)
    >>> chain = mpnn.graphs.chain(50)
    >>> found = state_sensitivity(mpnn.nn.RNN(4, 8), torch.randn(50, 4), chain.edge_index)
    >>> found.norm.shape, 0 < found.rate() < 1                     # it vanishes: each step takes a share
    (torch.Size([1, 50]), True)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch_geometric.utils import softmax

from mpnn.engine import engine
from mpnn.engine.call import Call, tuple_of
from mpnn.graph import check_edges
from mpnn.kernels import permute
from mpnn.message_passing import MessagePassing
from mpnn.nn.rnn import RNN
from mpnn.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Sensitivity",
    "attention",
    "dirichlet_energy",
    "energies",
    "gamma",
    "hidden_states",
    "hops",
    "input_sensitivity",
    "plot_energies",
    "plot_sensitivity",
    "state_sensitivity",
]


@dataclass(frozen=True)
class Sensitivity:
    """Norms of Jacobians between nodes, beside the distance of the nodes.

    Attributes:
        norm ``(T, N)`` float64: how much the state of target t moves with what stands at node k.
        distance ``(T, N)`` float64: edges on the shortest way from k to the target, infinite if there is none.
        target ``(T,)`` int64: the targets.
    """

    norm: Tensor
    distance: Tensor
    target: Tensor

    def by_distance(self) -> tuple[Tensor, Tensor]:
        """Each finite distance there is, and the mean norm over the pairs at that distance.

        Example:
            >>> found = Sensitivity(torch.tensor([[4.0, 2.0, 6.0]]), torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([0]))
            >>> found.by_distance()
            (tensor([0., 1.]), tensor([4., 4.]))
        """
        reached = self.distance.isfinite()
        distance, place = self.distance[reached].unique(return_inverse=True)
        total = self.norm.new_zeros(len(distance)).index_add(0, place, self.norm[reached])
        return distance, total / place.bincount(minlength=len(distance))

    def rate(self) -> float:
        """The factor by which the mean norm changes a step: a least-squares line through its logarithm.

        Distances at which the norm is 0 are left out, and so is distance 0.

        Raises:
            ValueError: there are fewer than two such distances.

        Example:
            >>> Sensitivity(torch.tensor([[1.0, 0.5, 0.25]]), torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0])).rate()
            0.5
        """
        distance, norm = self.by_distance()
        kept = (norm > 0) & (distance > 0)
        x, y = distance[kept], norm[kept].log()
        if len(x) < 2:
            raise ValueError(
                f"rate: the norm is above 0 at {len(x)} distances from 1 on; expected two or more. Take another target."
            )
        x = x - x.mean()
        return float((x @ y / (x @ x)).exp())


# Jacobians -----------------------------------------------------------------------------------------------------------


def input_sensitivity(
    model: Callable[..., Any],
    x: Tensor,
    edge_index: Any,
    target: int | Sequence[int] | Tensor = -1,
    norm: str = "frobenius",
    probes: int | None = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Sensitivity:
    r"""How much the result at a target moves with the input at each node: :math:`\|\partial h_t / \partial x_k\|`.

    For any layer and any stack of layers. Where much has to pass through few edges, the norm falls quickly with
    the distance of k from t: the graph is over-squashed.

    Source: Topping et al. 2022, arXiv:2111.14522, sec. 3 (the Jacobian as the measure of over-squashing);
    Hutchinson 1990 for the random projections. Deviations: the norm of the whole block, not single entries.

    Args:
        model: called as ``model(x, edge_index, **options)``; of several results, all are joined.
        x: ``(N, F)``, dense.
        edge_index: as the model takes it.
        target: one node or several; negative ones count from the end.
        norm: ``"frobenius"``, or ``"spectral"``, the largest singular value, as bounds are stated.
        probes: estimate the Frobenius norm by this many random projections to one number each, instead of one for each
            entry of the result, exactly. The estimate of the square is unbiased, and its standard deviation is
            at most :math:`\sqrt{2 / probes}` of it.
        generator: of the projections.

    Returns:
        Norms, and distances along the edges of ``edge_index`` (of all types together).

    Raises:
        ValueError: ``norm`` is unknown or spectral with probes; a target is no node.

    Example:
        >>> import mpnn
        >>> edges, layer = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), mpnn.nn.GCN(3, 4)
        >>> (input_sensitivity(layer, torch.ones(3, 3), edges, target=0).norm > 0).tolist()       # one layer, one hop
        [[True, True, False]]
    """
    target = _targets(target, x.shape[0])
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        out = _joined(tuple_of(model(x, edge_index, **options)))
    norms = _norms(out, [x], lambda grads: grads[0], target, norm, probes, generator)
    return Sensitivity(norms, hops(edge_index, x.shape[0], target), target)


def state_sensitivity(
    layer: MessagePassing,
    x: Tensor,
    edge_index: Any,
    target: int | Sequence[int] | Tensor = -1,
    fields: Sequence[str] | None = None,
    norm: str = "frobenius",
    probes: int | None = None,
    generator: torch.Generator | None = None,
    of_pass: int = -1,
    **options: Any,
) -> Sensitivity:
    r"""How much the state of a target moves with the state of each node: :math:`\|\partial h_t / \partial h_k\|`.

    The derivative is total: along all paths from k to t. It is read where the engine writes the state of k, so one
    backward pass gives all k, and any layer with a state will do: on a chain these are the products of
    backpropagation through time, on a tree those through structure. It is the identity for k = t.

    Source: Hochreiter 1991; Bengio, Simard & Frasconi 1994, "Learning long-term dependencies with gradient descent is
    difficult"; Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063. Deviations: graphs other than chains.

    Args:
        layer: called as ``layer(x, edge_index, **options)``; it returns its state, or some of it.
        x: ``(N, F)``, dense.
        edge_index: as the layer takes it.
        target, norm, probes, generator: as in :func:`input_sensitivity`.
        fields: of a state of several fields, those that count, at both ends; all unless given. So an LSTM has one
            sensitivity for ``("h",)``, in which the path through the cells counts only as far as h has a part in it,
            and one for h and c together.
        of_pass: which of the passes that the layer itself makes, in their order (layer by layer, forward before
            backward); the last unless given.

    Returns:
        Norms, and distances along the edges of that pass.

    Raises:
        ValueError: as in :func:`input_sensitivity`; a field is none of the state.
        TypeError: the layer has no state.

    Example:
        >>> import mpnn
        >>> chain = mpnn.graphs.chain(3).edge_index
        >>> state_sensitivity(mpnn.nn.RNN(4, 4), torch.ones(3, 4), chain, norm="spectral").norm[0, 2].item()
        1.0
    """
    fields = _fields(layer, fields)
    target = _targets(target, x.shape[0])
    if "cells" in inspect.signature(layer.forward).parameters:
        options = {"cells": True} | options  # an LSTM hands out c only if asked
    with torch.enable_grad(), engine("wavefront"), _taken_down(layer) as passes:
        out = tuple_of(layer(x.detach(), edge_index, **options))
        out = _joined([out[k] for k in fields] if len(out) == len(layer.state) else out)
    plan, states = passes[of_pass]
    inputs = [state[k] for k in fields for state in states]

    def arrange(grads: Sequence[Tensor]) -> Tensor:
        levels = plan.num_levels
        blocks = [torch.cat(grads[k : k + levels]) for k in range(0, len(grads), levels)]
        return permute(torch.cat(blocks, dim=1), plan.node_position, plan.node_order)

    norms = _norms(out, inputs, arrange, target, norm, probes, generator)
    edges = torch.cat([plan.edge_index(kind) for kind in plan.edges], dim=1)
    return Sensitivity(norms, hops(edges, plan.num_nodes, target), target)


@contextmanager
def _taken_down(layer: MessagePassing) -> Iterator[list[tuple[Plan, list[tuple]]]]:
    """For each pass that the layer makes meanwhile, its plan and what ``update`` returned, level by level."""
    update, propagate, passes = layer.update, layer.propagate, []

    def noted_propagate(edge_index, schedule=None, num_nodes=None, *rest, **kw):
        size = layer._size(edge_index, num_nodes, kw)
        passes.append((layer._plan(edge_index, schedule, size), []))
        return propagate(edge_index, schedule, num_nodes, *rest, **kw)

    def noted_update(*arguments):
        new = tuple(_apart(value) for value in tuple_of(update(*arguments)))
        passes[-1][1].append(new)
        return new

    vars(layer).update(update=noted_update, propagate=noted_propagate)  # past the check of hooks: these take all
    try:
        yield passes
    finally:
        del layer.update, layer.propagate


def _apart(value: Tensor) -> Tensor:
    """The same values as a tensor of its own: where h is computed from c, only what reads the state counts for c."""
    return value.view_as(value) if value.requires_grad else value.detach().requires_grad_()


def _norms(
    out: Tensor, inputs: list[Tensor], arrange: Callable, target: Tensor, norm: str, probes: int | None, generator: Any
) -> Tensor:
    """The norm of the block of the Jacobian that belongs to each target and each node, ``(T, N)``."""
    if norm not in ("frobenius", "spectral") or (norm == "spectral" and probes is not None):
        given = f"norm={norm!r}" + f" with probes={probes}" * (probes is not None)
        raise ValueError(f"{given} is unknown; expected 'frobenius' or, without probes, 'spectral'.")
    if probes is None:
        rows = torch.eye(out.shape[1], dtype=out.dtype)
    else:
        rows = torch.randint(2, (probes, out.shape[1]), generator=generator).to(out.dtype) * 2 - 1

    def backward(t: Tensor) -> Iterator[Tensor]:
        with torch.enable_grad():
            one = out[t]
        for row in rows.to(out.device):
            grads = torch.autograd.grad(one, inputs, row, retain_graph=True, allow_unused=True, materialize_grads=True)
            yield arrange(grads).double()  # (N, D)

    if norm == "spectral":
        return torch.stack([torch.linalg.matrix_norm(torch.stack(list(backward(t)), 1), 2) for t in target])
    mean = 1 if probes is None else probes
    return torch.stack([(sum(g.square().sum(1) for g in backward(t)) / mean).sqrt() for t in target])


def _targets(target: int | Sequence[int] | Tensor, num_nodes: int) -> Tensor:
    given = torch.as_tensor(target).flatten().cpu()
    outside = (given < -num_nodes) | (given >= num_nodes)
    if bool(outside.any()):
        raise ValueError(
            f"target: {int(given[outside][0])} is no node of the {num_nodes} there are; expected -{num_nodes} to "
            f"{num_nodes - 1}."
        )
    return given % num_nodes if num_nodes else given


def _fields(layer: MessagePassing, fields: Sequence[str] | None) -> list[int]:
    name = type(layer).__name__
    if not getattr(layer, "state", ()):
        raise TypeError(f"state_sensitivity: {name} has no state; expected a recurrent layer. Use input_sensitivity.")
    for field in fields or ():
        if field not in layer.state:
            raise ValueError(f"state_sensitivity: {field!r} is no field of {name}'s state; expected of {layer.state}.")
    return [layer.state.index(field) for field in fields or layer.state]


def _joined(out: Sequence[Tensor]) -> Tensor:
    return torch.cat([value.flatten(1) for value in out], dim=1)


def hops(edge_index: Any, num_nodes: int, target: Sequence[int] | Tensor) -> Tensor:
    """Edges on the shortest way from each node to each target, ``(T, N)`` float64; infinite if there is none.

    Args:
        edge_index: ``(2, E)``, a plan, or ``{edge type: (2, E)}``, whose types count alike.

    Example:
        >>> hops(torch.tensor([[0, 1], [1, 2]]), 3, [2, 0])
        tensor([[2., 1., 0.],
                [0., inf, inf]], dtype=torch.float64)
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    given = edge_index.given if isinstance(edge_index, Plan) else edge_index
    given = torch.cat(list(given.values()), dim=1) if isinstance(given, Mapping) else given
    check_edges("hops", given, num_nodes)
    src, dst = given.cpu().numpy()
    backwards = coo_array((np.ones(len(src)), (dst, src)), shape=(num_nodes, num_nodes)).tocsr()
    return torch.from_numpy(dijkstra(backwards, unweighted=True, indices=np.asarray(target).reshape(-1)))


def gamma(layer: RNN, h: Tensor, of_layer: int = 0) -> tuple[Tensor, float]:
    r"""What one step of a simple recurrent network does to a gradient, and the most it can do.

    .. math::
        \gamma_k = \big\| \operatorname{diag}(f'(z_k))\, U^\top \big\|_2 \;\le\; \|U\|_2 \max |f'|

    with the spectral norm; :math:`|f'| \le 1` for tanh and the rectifier. As
    :math:`\delta_{t,k} = \operatorname{diag}(f'(z_k))\, U^\top \delta_{t,k+1}`, the gradient over t - k steps is at
    most the product of the gammas: below 1 it vanishes. Above 1 it may explode, and need not: beside it belongs the
    measured rate of :func:`state_sensitivity`.

    Source: Qiu, Neural Networks and Deep Learning, ch. 6; Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063.
    Deviations: a gamma for each node, where the texts have one.

    Args:
        layer: not residual.
        h: ``(N, H)`` the states that the layer gave, of one direction.
        of_layer: which layer of a stack.

    Returns:
        :math:`\gamma` ``(N,)``, and the bound :math:`\|U\|_2`.

    Raises:
        TypeError: the layer is no ``RNN``.
        ValueError: the layer is residual.

    Example:
        >>> import mpnn
        >>> layer, chain = mpnn.nn.RNN(2, 3), mpnn.graphs.chain(5).edge_index
        >>> of_node, bound = gamma(layer, layer(torch.ones(5, 2), chain))
        >>> bool((of_node <= bound).all())
        True
    """
    if not isinstance(layer, RNN):
        raise TypeError(
            f"gamma: layer is a {type(layer).__name__}; expected an mpnn.nn.RNN, whose step is one product. "
            "state_sensitivity measures any layer with a state."
        )
    if layer.residual:
        raise ValueError("gamma: the layer is residual, so that a step is I + diag(f') U and gamma is no bound for it.")
    U, h = layer.weights(of_layer, "").weight_hh.detach(), h.detach()
    slope = 1 - h.square() if layer.nonlinearity == "tanh" else (h > 0).to(h.dtype)
    return torch.linalg.matrix_norm(slope.unsqueeze(2) * U.t(), 2), float(torch.linalg.matrix_norm(U, 2))


# Over-smoothing ------------------------------------------------------------------------------------------------------


def dirichlet_energy(x: Tensor, edge_index: Any, by_degree: bool = False, relative: bool = False) -> Tensor:
    r"""How much the states of neighbours differ; 0 if each component has one state.

    .. math:: E(X) = \frac{1}{N} \sum_{j \to i} \| x_i - x_j \|_2^2

    With ``by_degree`` it is :math:`\|x_i / \sqrt{1 + d_i} - x_j / \sqrt{1 + d_j}\|`, so that 0 is where graph
    convolution leads, :math:`x_i \propto \sqrt{1 + d_i}`; d counts the edges into a node. With ``relative`` it is
    divided by :math:`\|X\|^2 / N`, so that the size of the states does not count: energy that falls only because all
    states shrink is no over-smoothing.

    Source: Rusch, Bronstein & Mishra 2023, arXiv:2303.10993 (whose figures show the root of it); Cai & Wang 2020,
    arXiv:2006.13318 (by degree); Di Giovanni et al. 2023, arXiv:2206.10991 (relative).
    Deviations: each direction of an undirected edge counts, as in the first; the second and third have half of it, and
    no 1 / N.

    Args:
        x: ``(N, F)``.
        edge_index: ``(2, E)``, or a plan.
        by_degree: whether to weigh by degree.
        relative: whether to divide by the size of x; then 0 for x = 0.

    Returns:
        One number, differentiable.

    Example:
        >>> edges = torch.tensor([[0, 1], [1, 0]])
        >>> dirichlet_energy(torch.tensor([[1.0], [3.0]]), edges)
        tensor(4.)
        >>> dirichlet_energy(torch.tensor([[1.0], [3.0]]), edges, relative=True)
        tensor(0.8000)
    """
    src, dst = edge_index.given if isinstance(edge_index, Plan) else edge_index
    size = x.square().sum()
    if by_degree:
        degree = torch.bincount(dst, minlength=x.shape[0])
        x = x * (1 + degree).to(x.dtype).rsqrt().unsqueeze(1)
    energy = (x.index_select(0, dst) - x.index_select(0, src)).square().sum()
    return energy / size.clamp_min(torch.finfo(x.dtype).tiny) if relative else energy / max(x.shape[0], 1)


def hidden_states(
    model: nn.Module, *arguments: Any, layers: Iterable[nn.Module] | None = None, **options: Any
) -> list[Tensor]:
    """What some layers inside a model give while ``model(*arguments, **options)`` is called, in the order of the calls.

    Args:
        layers: modules of the model; its message-passing layers unless given. Of several results, the first counts.

    Raises:
        ValueError: there is no such layer.

    Example:
        >>> import mpnn
        >>> layers = nn.ModuleList([mpnn.nn.GCN(2, 4), mpnn.nn.GCN(4, 3)])
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layers = layers
        ...     def forward(self, x, edge_index):
        ...         for layer in self.layers:
        ...             x = layer(x, edge_index).relu()
        ...         return x
        >>> [h.shape[1] for h in hidden_states(Net(), torch.ones(3, 2), torch.tensor([[0, 1], [1, 2]]))]
        [4, 3]
    """
    states: list[Tensor] = []
    layers = [m for m in model.modules() if isinstance(m, MessagePassing)] if layers is None else list(layers)
    if not layers:
        raise ValueError(f"hidden_states: {type(model).__name__} has no message-passing layer; pass layers=.")
    handles = [m.register_forward_hook(lambda _m, _in, out: states.append(tuple_of(out)[0].detach())) for m in layers]
    try:
        with torch.no_grad():
            model(*arguments, **options)
    finally:
        for handle in handles:
            handle.remove()
    return states


def energies(
    model: nn.Module,
    x: Tensor,
    edge_index: Any,
    layers: Iterable[nn.Module] | None = None,
    by_degree: bool = False,
    relative: bool = False,
    **options: Any,
) -> Tensor:
    """The Dirichlet energy after each layer of ``model(x, edge_index, **options)``: :func:`dirichlet_energy` of
    :func:`hidden_states`, whose arguments these are.

    Example:
        >>> import mpnn
        >>> energies(mpnn.nn.GCN(2, 4), torch.ones(3, 2), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([1])
    """
    states = hidden_states(model, x, edge_index, layers=layers, **options)
    return torch.stack([dirichlet_energy(h, edge_index, by_degree, relative) for h in states])


# Attention ------------------------------------------------------------------------------------------------------------


def attention(model: nn.Module, *arguments: Any, **options: Any) -> list[tuple[Tensor, Tensor]]:
    """What the layers with an ``attention`` attend to while ``model(*arguments, **options)`` is called, in the order of
    the calls: the edges, and the weight of each, a softmax over the edges into a node.

    The weights are those before dropout, and before a ``weight`` of the layer multiplies them. The edges are those that
    the layer runs on: with the loops that a ``GAT`` adds, and turned where its schedule is reversed.

    Returns:
        For each call ``(2, E)`` int64 and ``(E,)``, or ``(E, K)`` of K heads.

    Raises:
        ValueError: there is no such layer, or its attention reads a state, which other levels write anew.

    Example:
        >>> import mpnn
        >>> ((edges, weight),) = attention(mpnn.nn.GAT(2, 4), torch.ones(3, 2), torch.tensor([[0, 1], [2, 2]]))
        >>> for edge, share in zip(edges.t().tolist(), weight.flatten().tolist()):
        ...     print(edge, round(share, 2))
        [0, 0] 1.0
        [1, 1] 1.0
        [0, 2] 0.33
        [1, 2] 0.33
        [2, 2] 0.33
    """
    found: list[tuple[Tensor, Tensor]] = []
    layers = [layer for layer in model.modules() if isinstance(layer, MessagePassing) and layer.hooks.attention]
    if not layers:
        raise ValueError(f"attention: {type(model).__name__} has no layer with an attention; expected one, as GAT is.")
    try:
        for layer in layers:
            vars(layer)["propagate"] = partial(_attending, layer, found)
        with torch.no_grad():
            model(*arguments, **options)
    finally:
        for layer in layers:
            vars(layer).pop("propagate", None)
    return found


def _attending(
    layer: MessagePassing, found: list, edge_index, schedule=None, num_nodes=None, batch=None, *rest, **fields
) -> Any:
    """``layer.propagate``, after the weights of its attention are noted."""
    hook = layer.hooks.attention
    if read := [argument.field for argument in hook.arguments if argument.field in layer.state]:
        raise ValueError(
            f"attention: {type(layer).__name__}.attention reads the state {read[0]!r}, which other levels write anew; "
            "expected fields that stay."
        )
    plan = layer._plan(edge_index, schedule, layer._size(edge_index, num_nodes, fields))
    edges, call = plan.edge_index(), Call(layer, plan, fields, batch, None)
    values = [_at_edges(call.value(hook, argument), argument.role, edges) for argument in hook.arguments]
    found.append((edges, softmax(layer.attention(*values), edges[1], num_nodes=plan.num_nodes)))
    return type(layer).propagate(layer, edge_index, schedule, num_nodes, batch, *rest, **fields)


def _at_edges(value: Any, role: str, edges: Tensor) -> Any:
    """A value at the end of each edge that a hook asks for."""
    if role == "edge" or not isinstance(value, Tensor) or not value.dim():
        return value
    return value.index_select(0, edges[0] if role == "source" else edges[1])


# Pictures ------------------------------------------------------------------------------------------------------------


def plot_sensitivity(found: Mapping[str, Sensitivity], ax: Axes | None = None, path: Any = None) -> Axes:
    """The mean norm against the distance, a line each, with the rate a step in the legend.

    Args:
        found: what is drawn, by name: ``{"LSTM": state_sensitivity(...)}``.
        ax: where to draw; a new figure unless given.
        path: a file to write; folders are made.

    Example:
        >>> found = Sensitivity(torch.tensor([[1.0, 0.5, 0.25]]), torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0]))
        >>> plot_sensitivity({"RNN": found}).get_legend().get_texts()[0].get_text()
        'RNN: x 0.5 a step'
    """
    ax = _axes(ax)
    for name, one in _by_name("plot_sensitivity", found):
        distance, norm = one.by_distance()
        kept = norm > 0
        ax.plot(distance[kept], norm[kept], marker="." if len(distance) < 40 else None, label=_with_rate(name, one))
    ax.set(xlabel="distance in edges", ylabel="mean norm of the Jacobian", yscale="log")
    ax.legend()
    return _written(ax, path)


def _with_rate(name: str, found: Sensitivity) -> str:
    distance, norm = found.by_distance()
    return f"{name}: x {found.rate():.3g} a step" if int(((norm > 0) & (distance > 0)).sum()) > 1 else name


def plot_energies(found: Mapping[str, Sequence[float] | Tensor], ax: Axes | None = None, path: Any = None) -> Axes:
    """The Dirichlet energy against the layer, a line each.

    Args:
        found: by name the energy after layer 1, 2, ...
        ax, path: as in :func:`plot_sensitivity`.

    Example:
        >>> plot_energies({"GCN": [1.0, 0.1]}).get_ylabel()
        'Dirichlet energy'
    """
    ax = _axes(ax)
    for name, energy in _by_name("plot_energies", found):
        ax.plot(range(1, len(energy) + 1), [float(e) for e in energy], marker=".", label=name)
    ax.set(xlabel="layer", ylabel="Dirichlet energy", yscale="log")
    ax.legend()
    return _written(ax, path)


def _by_name(owner: str, found: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    if not isinstance(found, Mapping):
        raise TypeError(f"{owner}: found is a {type(found).__name__}; expected a dict. Name it: {{'LSTM': found}}.")
    return found.items()


def _axes(ax: Axes | None) -> Axes:
    from matplotlib.figure import Figure

    return Figure(figsize=(7, 4.5), layout="constrained").subplots() if ax is None else ax


def _written(ax: Axes, path: Any) -> Axes:
    if path is not None:
        from pathlib import Path

        Path(path).parent.mkdir(parents=True, exist_ok=True)
        ax.figure.savefig(path, dpi=130)
    return ax
