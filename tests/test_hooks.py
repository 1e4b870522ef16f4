"""mpnn.hooks: what hooks may ask for, and what they are told when they ask for what there is not."""

import contextlib

import pytest
import torch

import mpnn
from mpnn.hooks import read_hooks

EDGES = torch.tensor([[0, 1, 1], [1, 2, 2]])


class Sum(mpnn.MessagePassing):
    def message(self, x_j):
        return x_j


def roles(hook):
    return [(a.name, a.field, a.role) for a in hook.arguments]


def test_arguments_are_told_apart_by_their_endings():
    class Layer(mpnn.MessagePassing):
        state = "h"

        def message(self, h_j, x_i, u_g, edge_attr, _j):
            return h_j

        def update(self, h, u_g, message):
            return h

        def edge_update(self, message, message_i, message_j, x_j, edge_attr):
            return message

        def global_update(self, u, nodes, edges):
            return u

    assert Layer.state == ("h",) and Layer.hooks.types == ("",)
    assert roles(Layer.hooks.message[""]) == [
        ("h_j", "h", "source"),
        ("x_i", "x", "target"),
        ("u_g", "u", "graph"),
        ("edge_attr", "edge_attr", "edge"),
        ("_j", "_j", "edge"),
    ]
    assert roles(Layer.hooks.update) == [("h", "h", "own"), ("u_g", "u", "graph"), ("message", "message", "message")]
    assert [role for _, _, role in roles(Layer.hooks.edge_update)] == ["message", "target", "source", "source", "edge"]
    assert [role for _, _, role in roles(Layer.hooks.global_update)] == ["own", "pooled", "pooled"]
    assert set(Layer.hooks.node_fields) == {"h", "x"}


def test_a_class_may_be_redefined_with_another_message_in_the_same_namespace():
    namespace, x = {"mpnn": mpnn}, torch.tensor([[1.0], [2.0], [4.0]])
    body = "class Cell(mpnn.MessagePassing):\n    def message(self, {}):\n        return {}\n"
    exec(body.format("x_j", "x_j"), namespace)
    first = namespace["Cell"]()
    exec(body.format("x_j, x_i, w", "w * x_j + x_i"), namespace)
    second, w = namespace["Cell"](), torch.tensor([[1.0], [2.0], [3.0]])
    assert second.propagate(EDGES, x=x, w=w).flatten().tolist() == [0, 3, 2 * 2 + 3 * 2 + 4 + 4]
    assert first.propagate(EDGES, x=x).flatten().tolist() == [0, 1, 4]  # the old one goes on


def test_a_subclass_may_change_one_hook():
    class Doubled(Sum):
        def update(self, x, message):
            return x + 2 * message

    x = torch.ones(3, 1)
    assert Doubled().propagate(EDGES, x=x).flatten().tolist() == [1, 3, 5]
    assert Sum().propagate(EDGES, x=x).flatten().tolist() == [0, 1, 2]


def test_defaults_stand_for_what_was_not_passed():
    class Optional(mpnn.MessagePassing):
        def message(self, x_j, w=None):
            return x_j if w is None else w[:, None] * x_j

        def update(self, message, bias=0.5):
            return message + bias

    x = torch.ones(3, 1)
    assert Optional().propagate(EDGES, x=x).flatten().tolist() == [0.5, 1.5, 2.5]
    assert Optional().propagate(EDGES, x=x, w=torch.ones(3) * 2, bias=0.0).flatten().tolist() == [0, 2, 4]


@pytest.mark.parametrize("way", ["reference", "wavefront"])
def test_a_misspelt_argument_is_told_with_the_names_there_are(way):
    class Misspelt(mpnn.MessagePassing):
        def message(self, z_j, edge_attr):
            return z_j

        def update(self, x, message):
            return message

    x, e = torch.ones(3, 1), torch.ones(3)
    with mpnn.engine(way):
        with pytest.raises(TypeError, match=r"message asks for 'z_j', but only 'edge_attr' and 'x' were .* Pass z="):
            Misspelt().propagate(EDGES, x=x, edge_attr=e)
        with pytest.raises(TypeError, match=r"message asks for 'edge_attr', but only 'x' and 'z' were passed"):
            Misspelt().propagate(EDGES, x=x, z=x)
        with pytest.raises(TypeError, match=r"Misspelt.update asks for 'x', but only 'edge_attr' and 'z' were passed"):
            Misspelt().propagate(EDGES, z=x, edge_attr=e)
        with pytest.raises(TypeError, match=r"Misspelt.message asks for 'z_j', but only 'x' was passed"):
            Misspelt().propagate(EDGES, x=x)
        with pytest.raises(TypeError, match=r"asks for 'z_j', but .*no field .* passed"):
            Misspelt().propagate(EDGES, num_nodes=3)


def test_a_misspelt_argument_is_told_what_names_mean_where_it_is():
    def misspelt(hook, name):
        given = eval(f"lambda self, {name}: {name}")
        return type("Bad", (Sum,), {hook: given})()

    at_ends = "x_j is field x of the source, x_i of the target, x_g of the graph, any other name a field of edges"
    own = "message is what was aggregated, u_g field u of the graph, any other name the node's own field"
    both = "message is what the edge sent, message_j and message_i what its ends got, " + at_ends
    pooled = "nodes and edges are the new values pooled over each graph, any other name a field of graphs"
    for hook, name, words in [
        ("message", "x_k", at_ends),
        ("update", "mesage", own),
        ("edge_update", "mesage_i", both),
        ("global_update", "node", pooled),
    ]:
        with pytest.raises(TypeError, match=f"Bad.{hook} asks for '{name}', .*or rename the argument: {words}"):
            misspelt(hook, name).propagate(EDGES, x=torch.ones(3, 1))


@pytest.mark.parametrize("way", ["reference", "wavefront", None])
def test_an_update_that_names_messages_of_another_type_is_told_what_there_is(way):
    class OfOne(Sum):
        def update(self, x, message_j):
            return message_j

    class OfTwo(mpnn.MessagePassing):
        def message_up(self, x_j):
            return x_j

        message_down = message_up

        def update(self, message, x=None):
            return message

    x = torch.ones(3, 1)
    with contextlib.nullcontext() if way is None else mpnn.engine(way):
        with pytest.raises(TypeError, match="OfOne.update asks for 'message_j', but what is .* is called message. Ren"):
            OfOne().propagate(EDGES, x=x)
        with pytest.raises(TypeError, match="OfTwo.update asks for 'message', .* called message_down and message_up"):
            OfTwo().propagate({"up": EDGES, "down": EDGES}, x=x)


def test_an_aggregate_that_asks_for_what_there_is_not_is_refused_when_the_class_is_made():
    with pytest.raises(TypeError, match="Bad.aggregate asks for 'x'; expected message, index, num_nodes. Rename"):
        type("Bad", (Sum,), {"aggregate": eval("lambda self, message, x: message")})


def test_edge_and_global_updates_name_what_they_miss():
    class Misspelt(Sum):
        def edge_update(self, message, y_i):
            return message

        def global_update(self, v, nodes):
            return nodes

    with pytest.raises(TypeError, match="Misspelt.edge_update asks for 'y_i', but only 'x' was passed"):
        Misspelt().propagate(EDGES, x=torch.ones(3, 1))
    with pytest.raises(TypeError, match="Misspelt.global_update asks for 'v', which was not passed. Pass v="):
        Misspelt().propagate(EDGES, x=torch.ones(3, 1), y=torch.ones(3, 1))


@pytest.mark.parametrize("star", ["*args", "**kwargs"])
def test_star_arguments_are_refused_when_the_class_is_made(star):
    with pytest.raises(TypeError, match=rf"Bad.message: takes \{star[0]}.*{star.strip('*')}, but hooks are given what"):
        exec(f"class Bad(mpnn.MessagePassing):\n    def message(self, x_j, {star}): return x_j", {"mpnn": mpnn})


def test_a_message_and_a_weight_are_refused_together():
    with pytest.raises(TypeError, match="Both defines message and also weight or attention"):

        class Both(mpnn.MessagePassing):
            def message(self, x_j):
                return x_j

            def weight(self, w):
                return w


def test_a_layer_without_messages_is_refused():
    class Silent(mpnn.MessagePassing):
        def update(self, x):
            return x

    with pytest.raises(TypeError, match="Silent defines neither message nor value; define message"):
        Silent()


def test_updates_that_do_not_fit_the_state_are_refused():
    class Two(Sum):
        state = ("h", "c")

        def update(self, message):
            return message

    class Short(Sum):
        state = ("h",)

        def update(self, message):
            return message[:1]

    x = torch.ones(3, 1)
    with pytest.raises(ValueError, match="Two.update returned 1 values, but the state has 2 fields, h, c"):
        Two().propagate(EDGES, x=x, h=x, c=x)
    with pytest.raises(ValueError, match=r"Short.update returned shape \(1, 1\) for h, but 3 nodes fire"):
        Short().propagate(EDGES, x=x, h=x)


def test_a_state_that_was_not_passed_is_zeros_of_a_known_width_or_an_error():
    class Keeps(Sum):
        state = ("h",)

        def update(self, h, message):
            return h + message

    layer = Keeps()
    with pytest.raises(ValueError, match="Keeps: the state 'h' was not passed and there is no hidden_features"):
        layer.propagate(EDGES, x=torch.ones(3, 2))
    layer.hidden_features = 2
    assert layer.propagate(EDGES, x=torch.ones(3, 2)).tolist() == [[0, 0], [1, 1], [2, 2]]


def test_unknown_aggregations_are_refused():
    with pytest.raises(ValueError, match="Sum: aggr='summ' is unknown; expected 'sum', 'mean'"):
        Sum(aggr="summ")
    with pytest.raises(TypeError, match="Sum: aggr is a int"):
        Sum(aggr=3)


def test_one_message_a_type_is_read_by_its_name():
    class Typed(mpnn.MessagePassing):
        def message_up(self, x_j):
            return x_j

        def message_down(self, x_j, w):
            return x_j * w

        def update(self, message_up, message_down):
            return message_up - message_down

    assert set(Typed.hooks.types) == {"up", "down"}
    w, x = {"down": torch.full((1, 1), 5.0), "up": None}, torch.tensor([[1.0], [2.0]])
    up, down = torch.tensor([[0, 0], [1, 1]]), torch.tensor([[1], [0]])
    assert Typed().propagate({"up": up, "down": down}, x=x, w=w).flatten().tolist() == [-10, 2]


def test_hooks_are_read_from_signatures_alone():
    """No source is needed: a class made at run time has hooks as any other."""
    made = type("Made", (mpnn.MessagePassing,), {"message": eval("lambda self, x_j: 3 * x_j")})
    assert made().propagate(EDGES, x=torch.ones(3, 1)).flatten().tolist() == [0, 3, 6]
    assert read_hooks(made, mpnn.MessagePassing).node_fields == ("x",)


def test_hooks_may_need_no_self():
    class Static(mpnn.MessagePassing):
        factor = 3

        @classmethod
        def message(cls, x_j):
            return cls.factor * x_j

        @staticmethod
        def update(x, message):
            return message - x

    assert Static().propagate(EDGES, x=torch.ones(3, 1)).flatten().tolist() == [-1, 2, 5]


@pytest.mark.parametrize("arguments", ["*, x_j", "x_j, *, w=None"])
def test_arguments_by_keyword_only_are_refused_when_the_class_is_made(arguments):
    name = arguments.removeprefix("x_j, ").removeprefix("*, ").removesuffix("=None")
    with pytest.raises(TypeError, match=rf"Bad.message: takes {name} by keyword only.* Take the \* in front of {name}"):
        exec(f"class Bad(mpnn.MessagePassing):\n    def message(self, {arguments}): return x_j", {"mpnn": mpnn})


def test_a_module_in_the_place_of_a_hook_is_refused():
    with pytest.raises(TypeError, match=r"message, a Linear: takes \*.* Name each argument"):
        type("Bad", (mpnn.MessagePassing,), {"message": torch.nn.Linear(3, 3)})


@pytest.mark.parametrize("count", [3, torch.tensor(3), torch.tensor(3).numpy(), (3, 3), torch.tensor([3, 3]).tolist()])
def test_the_number_of_nodes_may_come_in_any_kind_of_integer(count):
    assert Sum().propagate(EDGES, num_nodes=count, x=torch.ones(3, 1)).flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize("count", [3.0, "3", (3, None), torch.tensor(3.0)])
def test_a_number_of_nodes_that_is_none_is_refused(count):
    with pytest.raises(TypeError, match=r"Sum: num_nodes is .*3.*; expected an int, or \(sources, targets\)"):
        Sum().propagate(EDGES, num_nodes=count, x=torch.ones(3, 1))


def test_a_hook_set_on_an_object_that_names_other_arguments_is_refused():
    class Typed(mpnn.MessagePassing):
        def message_up(self, x_j):
            return x_j

    takes = r"with the arguments \(z_j, w\); expected {}. Define {} in a subclass, class My{}\({}\), or, "
    for layer, name, expected in [
        (Sum(), "message", r"\(x_j\), which the class's takes"),
        (Sum(), "update", r"\(message\), which the class's takes"),
        (Typed(), "message_up", r"\(x_j\), which the class's takes"),
        (Sum(), "attention", "none, for the class has none"),
    ]:
        kind = type(layer).__name__
        words = f"{kind}: {name} is set to <lambda> {takes.format(expected, name, kind, kind)}"
        with pytest.raises(TypeError, match=words):
            setattr(layer, name, lambda z_j, w: w * z_j)
    with pytest.raises(TypeError, match="Sum: message is set to a Linear"):
        Sum().message = torch.nn.Linear(1, 1)
    with pytest.raises(TypeError, match="GCN: message is set to <lambda> .* for the class has none"):
        mpnn.nn.GCN(2, 2).message = lambda x_j: x_j


def test_a_hook_set_on_an_object_may_take_what_that_of_its_class_takes():
    layer, x = Sum(), torch.ones(3, 1)
    layer.message = lambda x_j: 2 * x_j
    assert layer.propagate(EDGES, x=x).flatten().tolist() == [0, 2, 4]
    of_class, layer.message = layer.message, lambda *arguments: 5 * of_class(*arguments)
    assert layer.propagate(EDGES, x=x).flatten().tolist() == [0, 10, 20]
    layer.message = torch.neg
    assert layer.propagate(EDGES, x=x).flatten().tolist() == [0, -1, -2]
    del layer.message
    assert layer.propagate(EDGES, x=x).flatten().tolist() == [0, 1, 2]


def test_what_is_no_hook_may_have_the_name_of_one():
    layer = Sum()
    layer.attention, layer.weight = torch.nn.Linear(1, 1), torch.nn.Parameter(torch.ones(1))
    layer.message_maker, layer.hidden_features = torch.tanh, 3
    assert layer.propagate(EDGES, x=torch.ones(3, 1)).flatten().tolist() == [0, 1, 2]
    assert {name for name, _ in layer.named_parameters()} == {"weight", "attention.weight", "attention.bias"}
