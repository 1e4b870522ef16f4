"""What torch's compiler makes of the hooks of a level: one function ahead, one back, and no autograd between them.

``level`` is what is traced. All that differs from level to level comes in a list of tensors whose first sizes stay
open, so one program does for all levels of a form; ``Program.fits`` says for which sizes it stands. Dynamo lifts
weights, wherever hooks keep them, to inputs of the graph, and looks at every call whether a program still stands for
the layer. The graph with its derivative is cut in two by AOTAutograd's partitioner, and Inductor compiles both.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from functools import cache, cached_property, lru_cache, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, fx

from mpnn.engine.call import aggregate, messages, tuple_of
from mpnn.engine.wavefront import Ragged, Uniform

if TYPE_CHECKING:
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

OPEN = {"use_duck_shape": False, "backed_size_oblivious": True}  # equal sizes, and those of 0 and 1, are like others
FEW = {"use_duck_shape": False}  # sizes of 0 and 1 are what they are
DYNAMO = {"automatic_dynamic_shapes": False, "recompile_limit": 64}  # widths are numbers in a program
PURE = {"side_effect_replay_policy": "error"}  # a hook runs once for all levels, and on examples
INDUCTOR = {"fallback_random": True, "size_asserts": False, "scalar_asserts": False}  # random numbers are torch's own
aten = torch.ops.aten

Place = tuple[str, Any]  # where a hook's argument is found
_PLACE = re.compile(r"L\['tensors'\]\[(\d+)\](\.size\(\)\[0\])?")  # what dynamo calls a tensor, or its first size


class Edges(NamedTuple):
    """The edges of one type into a level."""

    kind: str
    message: str  # what update calls their sum
    degree: int | None  # how many end at each node, if it is one number
    ends: int  # which tensor says where they end
    hooks: tuple[tuple[str, tuple[Place, ...]], ...]  # that run on edges, with the places of their arguments


class Form(NamedTuple):
    """What levels have in common that one program runs."""

    edges: tuple[Edges, ...]
    own: tuple[Place, ...]  # of update's arguments; a message that is None has the place ("same", None)
    state: tuple[torch.dtype, ...]


# What is traced -------------------------------------------------------------------------------------------------------


def level(layer, form: Form, same: list, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """The new state of a level. ``tensors[0]`` has a row a node; ``same`` is what all levels share."""
    got, num_nodes = {}, tensors[0].shape[0]
    for edges in form.edges:
        index = tensors[edges.ends]
        frontier = _Traced(num_nodes, index) if edges.degree is None else Uniform(num_nodes, edges.degree, index)
        arguments = {name: [_found(at, same, tensors, frontier) for at in places] for name, places in edges.hooks}
        sent = messages(layer, layer.hooks, edges.kind, arguments, frontier)
        got[edges.message] = aggregate(layer, edges.kind, sent, frontier)
    own = [got[what] if how == "message" else _found((how, what), same, tensors) for how, what in form.own]
    new = tuple_of(getattr(layer, layer.hooks.update.name)(*own))
    return tuple(value.clone() for value in new)  # each of its own, also where it is an input or the same as another


def _found(place: Place, same: list, tensors: list[Tensor], frontier: Any = None) -> Any:
    how, what = place
    if how == "same":
        return None if what is None else same[what]
    if how == "read":
        return _Read.apply(*(tensors[k] for k in what))
    return frontier.expand(tensors[what]) if how == "target" else tensors[what]


class _Traced(Ragged):
    """A frontier whose degrees are counted where they are asked for."""

    @property
    def degree(self) -> Tensor:
        ones = torch.ones_like(self.index)
        return ones.new_zeros(self.num_nodes).index_add(0, self.index, ones).clamp(min=1)


class _Read(torch.autograd.Function):
    """Rows of a buffer. Their gradient is that of ``leaf``, which has their shape and is not looked at."""

    @staticmethod
    def forward(ctx, buffer, rows, leaf):
        return buffer.index_select(0, rows)

    @staticmethod
    def backward(ctx, grad):
        return None, None, grad


# What comes of it -----------------------------------------------------------------------------------------------------

_picked = threading.local()  # the program that dynamo picked last, and its inputs


def program(layer, form: Form, few: tuple, same: list, tensors: list[Tensor]) -> tuple[Program, tuple]:
    """The program for what hooks do on such tensors, and what it takes: some of these, open sizes, and weights.

    ``few`` says which sizes are 0 or 1. What hooks do with these need not be what they do with others.
    """
    from torch.fx.experimental import _config as shapes

    _picked.last = None
    for tensor in tensors:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    with shapes.patch(FEW if few else OPEN), torch._dynamo.config.patch(DYNAMO | PURE):
        _tracer(type(layer), form, few)(layer, form, same, tensors)
    if _picked.last is None:
        raise ValueError("torch.compile is switched off.")
    (found, inputs), _picked.last = _picked.last, None  # which holds on to weights
    if not few and not all(size.node.expr.free_symbols for size in found.open.values()):
        raise ValueError("What they do depends on the number of nodes or edges in a level.")
    return found, inputs


@cache
def _tracer(kind: type, form: Form, few: tuple) -> Callable:
    """``level``, compiled for a kind of layer and a form apart from others, so that few programs are searched."""
    code = level.__code__.replace(co_name=f"level_of_{kind.__name__}")
    return torch.compile(FunctionType(code, level.__globals__), backend=partial(Program, form), fullgraph=True)


class Program:
    """Two compiled functions: ``forward(inputs)`` gives the new state, and then what ``backward`` asks for.

    ``sources`` says what each input is: ("tensor", k) of the list that was traced, ("size", k), the first size of one,
    or ("shared", None), a weight or the like. ``open`` are the sizes that stay open, by the place in that list of what
    they are the sizes of; also of what is no input, for hooks may have looked at its size alone.
    ``backward`` is None where nothing has a gradient. It takes what was kept, ``num_tensors`` tensors and then sizes,
    and the gradients of those outputs that are ``wanted``, in the order ``order``; and gives the gradient of each
    input, or None. For inputs in ``products`` it gives two factors instead, at the places named there: the gradient is
    the product of one's transpose and the other.
    """

    def __init__(self, form: Form, graph: fx.GraphModule, examples: Sequence):
        self.sources = [_source(node) for node in _inputs(graph)]
        self.outputs = [node.meta["example_value"] for node in _outputs(graph)]
        if len(self.outputs) != len(form.state):
            raise ValueError("They keep tensors beside the state.")
        self.open = _open(self.outputs[0].fake_mode.shape_env, form)
        self.backward, self.num_tensors, self.products, self.wanted = None, 0, {}, [False] * len(form.state)
        self.fits = lru_cache(1 << 12)(self._fits)
        needs = all(any(isinstance(v, Tensor) and v.requires_grad for v in of) for of in (examples, self.outputs))
        with torch._inductor.config.patch(INDUCTOR):
            self._compile(self._joint(graph, form.state, examples, needs), needs)

    def __call__(self, *inputs: Any) -> tuple[Tensor, ...]:
        """Dynamo picked this program, which runs later."""
        _picked.last = self, inputs
        return tuple(torch.empty(0) for _ in self.outputs)

    def _joint(self, graph: fx.GraphModule, dtypes: tuple, examples: Sequence, needs: bool) -> fx.GraphModule:
        """The graph with its derivative, if there is one: outputs first, then the gradient of each input."""
        from torch._functorch.aot_autograd import aot_export_joint_simple
        from torch._inductor.decomposition import select_decomp_table

        def pure(*inputs):
            new = [value.to(dtype) for value, dtype in zip(graph(*inputs), dtypes, strict=True)]
            self.wanted = [value.requires_grad for value in new]
            return tuple(value.clone(memory_format=torch.contiguous_format) for value in new)

        with torch.enable_grad():
            return aot_export_joint_simple(
                pure, tuple(examples), trace_joint=needs, decompositions=select_decomp_table()
            )

    def _compile(self, joint: fx.GraphModule, needs: bool) -> None:
        from torch._functorch.partitioners import min_cut_rematerialization_partition

        if not needs:
            self.forward = compile_graph(joint, is_inference=True)
            return
        count = len(self.outputs)
        weights = [k for k, (what, _) in enumerate(self.sources) if what == "shared"]
        self.products = _take_products(joint, count, weights)
        ahead, back = min_cut_rematerialization_partition(joint, _values(joint), num_fwd_outputs=count)
        saved = _outputs(ahead)[count:]
        self.num_tensors = sum(isinstance(node.meta["val"], Tensor) for node in saved)
        kept, names = [node.name for node in saved], [node.name for node in _inputs(back)]
        given = kept + [name for name in names if name not in kept]
        self.order = [given.index(name) for name in names]
        self.forward = compile_graph(ahead)
        self.backward = compile_graph(back, is_backward=True)

    @cached_property
    def _guards(self) -> str:
        """What was taken for granted of open sizes."""
        sizes = list(self.open.values())
        return sizes[0].node.shape_env.produce_guards_expression(sizes, ignore_static=False)

    def _fits(self, *sizes: int) -> bool:
        """Whether it stands for what hooks do where the open sizes are these."""
        shapes = next(iter(self.open.values())).node.shape_env
        return shapes.evaluate_guards_expression(self._guards or "True", sizes)


def compile_graph(graph: fx.GraphModule, **options: bool) -> Callable[[list], Sequence]:
    """A function of a list of inputs."""
    from torch._inductor.compile_fx import compile_fx_inner

    return compile_fx_inner(graph, _values(graph), **options)


def _take_products(joint: fx.GraphModule, count: int, weights: list[int]) -> dict[int, tuple[int, int]]:
    """Hands out the factors of weights' gradients in their place, where these are products; which places they have.

    So such a gradient is the product of many levels' rows at once, not the sum of a product for each.
    """
    end = next(iter(reversed(joint.graph.nodes)))
    outputs, more, found = list(end.args[0]), [], {}
    for k in weights:
        node = outputs[count + k]
        factors = _factors(node) if isinstance(node, fx.Node) else None
        if factors is None:
            continue
        with joint.graph.inserting_before(end):
            left = joint.graph.call_function(aten.permute.default, (factors[0], [1, 0]))
        left.meta["val"] = factors[0].meta["val"].permute(1, 0)
        found[k] = len(outputs) - count + len(more), len(outputs) - count + len(more) + 1
        more += [left, factors[1]]
        outputs[count + k] = None
    end.args = ([*outputs, *more],)
    end.meta["desc"] = [*end.meta.get("desc", [None] * len(outputs)), *(None for _ in more)]
    joint.recompile()
    return found


def _factors(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """A and B, if a node is A B."""
    turned = 0
    while node.target is aten.permute.default and list(node.args[1]) == [1, 0]:
        node, turned = node.args[0], turned + 1
    return node.args if node.target is aten.mm.default and turned % 2 == 0 else None


def _inputs(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "placeholder"]


def _source(node: fx.Node) -> tuple[str, int | None]:
    """What an input is: ("tensor", k) of the list, ("size", k), its first size, or ("shared", None)."""
    found = _PLACE.fullmatch(node.meta["grapharg"].source.name)
    if found is None:
        return "shared", None
    return "size" if found[2] else "tensor", int(found[1])


def _open(shapes: ShapeEnv, form: Form) -> dict[int, torch.SymInt]:
    """First sizes of tensors of the list, by their place, as far as anything looked at them.

    Those of buffers are the graph's, which no hook sees, and would make all levels of each graph new.
    """
    buffers = {what[0] for edges in form.edges for _, of in edges.hooks for how, what in of if how == "read"}
    found = ((_PLACE.fullmatch(name), symbol) for name, symbol in shapes.source_to_var.items())
    first = {int(at[1]): symbol for at, symbol in found if at and int(at[1]) not in buffers}
    return {k: shapes.create_symintnode(s, hint=int(shapes.backed_var_to_val[s])) for k, s in first.items()}


def _outputs(graph: fx.GraphModule) -> Sequence[fx.Node]:
    return next(iter(reversed(graph.graph.nodes))).args[0]


def _values(graph: fx.GraphModule) -> list:
    return [node.meta["val"] for node in _inputs(graph)]
