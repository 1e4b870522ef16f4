import pytest
import torch
from compare import assert_close, assert_same, randomised
from torch_geometric.data import Batch, Data

import mpnn
from mpnn.graphs import brackets
from mpnn.nn import RecNN

TREES = {
    "one leaf": "(a w)",
    "a pair": "(a (b w) (c w))",
    "leaves at all depths": "(a (b (c w) (d (e w) (f w))) (g w))",
    "chain of left children": "(a (b (c (d w))))",
    "both sides": "(a (b (c w) (d w)) (e (f w) (g (h w) (i w))))",
}


def paper_recnn(W, U, b, x, children):  # h = f(W x + U_0 h_left + U_1 h_right + b); children[i]: {position: node}
    U_k, h = U.chunk(2, dim=1), {}

    def visit(i):
        for j in children[i].values():
            visit(j)
        h[i] = torch.tanh(W @ x[i] + sum((U_k[k] @ h[j] for k, j in children[i].items()), b))

    visit(0)
    return torch.stack([h[i] for i in range(len(children))])


def paper_recnn_back(W, U, b, x, children):  # the same from the parent, with the U of the node's own position
    U_k, h = U.chunk(2, dim=1), {0: torch.tanh(W @ x[0] + b)}
    for i in range(len(children)):  # parents have lower numbers
        for k, j in children[i].items():
            h[j] = torch.tanh(W @ x[j] + U_k[k] @ h[i] + b)
    return torch.stack([h[i] for i in range(len(children))])


def children_of(tree: Data) -> list[dict[int, int]]:
    children = [{} for _ in range(tree.num_nodes)]
    for (j, i), k in zip(tree.edge_index.t().tolist(), tree.child.tolist(), strict=True):
        children[i][k] = j
    return children


def inputs(tree: Data) -> torch.Tensor:
    torch.manual_seed(tree.num_nodes)
    return torch.randn(tree.num_nodes, 3, dtype=torch.float64, requires_grad=True)


def weights(layer):
    return layer.weight_ih, layer.weight_hh, layer.bias


@pytest.mark.parametrize("name", TREES)
def test_recnn_is_its_formula_in_both_directions(name):
    tree, layer = brackets(TREES[name]), randomised(RecNN(3, 4, bidirectional=True))
    x, children = inputs(tree), children_of(tree)
    up = paper_recnn(*weights(layer), x, children)
    down = paper_recnn_back(*weights(layer.reverse), x, children)
    leaves = [x, *layer.parameters()]
    assert_same(layer(x, tree.edge_index, tree.child), torch.cat([up, down], dim=1), leaves, what=name)


def test_without_inputs_an_inner_node_is_one_function_of_its_two_children_side_by_side():
    tree, layer = brackets(TREES["a pair"]), randomised(RecNN(3, 4))
    with torch.no_grad():
        x = inputs(tree) * torch.tensor([[0.0], [1.0], [1.0]])
        h = layer(x, tree.edge_index, tree.child)
        expected = torch.tanh(layer.weight_hh @ torch.cat([h[1], h[2]]) + layer.bias)
    assert_close(h[0], expected, "f(U [h_left; h_right] + b)")
    turned = layer(x, tree.edge_index, 1 - tree.child)
    assert not torch.allclose(turned[0], h[0])


def test_a_batch_of_trees_is_the_trees_one_by_one():
    trees = [brackets(text) for text in TREES.values()]
    layer, batch = randomised(RecNN(3, 4, bidirectional=True)), Batch.from_data_list(trees)
    x = torch.randn(batch.num_nodes, 3, dtype=torch.float64, requires_grad=True)
    parts = x.split([tree.num_nodes for tree in trees])
    alone = torch.cat([layer(part, tree.edge_index, tree.child) for part, tree in zip(parts, trees, strict=True)])
    assert_same(layer(x, batch.edge_index, batch.child), alone, [x, *layer.parameters()])


def test_the_way_back_of_a_plan_is_planned_once():
    tree, layer = brackets(TREES["both sides"]), randomised(RecNN(3, 4, bidirectional=True))
    plan, x = mpnn.plan(tree, "topological"), inputs(tree)
    expected = layer(x, tree.edge_index, tree.child)
    assert torch.equal(layer(x, plan, tree.child), expected)
    kept = dict(plan.memo)
    assert torch.equal(layer(x, plan, tree.child), expected)
    assert any(isinstance(value, mpnn.Plan) for value in kept.values())
    assert all(plan.memo[key] is value for key, value in kept.items())


@pytest.mark.parametrize("wrong", [2, -1])
def test_a_position_out_of_range_is_an_error_that_names_the_edge(wrong):
    tree, layer = brackets(TREES["a pair"]), RecNN(3, 4)
    layer(torch.ones(3, 3), tree.edge_index, tree.child)
    tree.child[1] = wrong  # written to after it was checked
    with pytest.raises(ValueError, match=rf"RecNN: edge 1 has child={wrong}; expected positions in \[0, 2\)"):
        layer(torch.ones(3, 3), tree.edge_index, tree.child)


def test_the_nonlinearity_may_be_a_module():
    tree = brackets(TREES["a pair"])
    plain, layer = (randomised(RecNN(3, 4, nonlinearity=f)) for f in (torch.tanh, torch.nn.Tanh()))
    x = inputs(tree)
    assert torch.equal(layer(x, tree.edge_index, tree.child), plain(x, tree.edge_index, tree.child))


def test_positions_may_be_made_in_inference_mode_and_are_checked_there():
    layer = RecNN(3, 4)
    with torch.inference_mode():
        edge_index, child = torch.tensor([[1, 2], [0, 0]]), torch.tensor([0, 1])
        assert layer(torch.ones(3, 3), edge_index, child).shape == (3, 4)
        with pytest.raises(ValueError, match="edge 1 has child=2"):
            layer(torch.ones(3, 3), edge_index, torch.tensor([0, 2]))
