import pytest
import torch
from compare import assert_close, assert_same, randomised
from test_recursive import TREES, children_of, inputs
from torch_geometric.data import Batch
from zoo import graphs

from mpnn.graphs import brackets, chain
from mpnn.nn import ChildSumTreeLSTM, NaryTreeLSTM, TreeGRU

sigma, tanh = torch.sigmoid, torch.tanh


def in_order(sources, visit):
    """Visits every node after its sources."""
    done = set()
    while len(done) < len(sources):
        for j in range(len(sources)):
            if j not in done and done.issuperset(sources[j]):
                visit(j, sources[j])
                done.add(j)


def stacked(rows: dict, width: int):
    return torch.stack([rows[i] for i in range(len(rows))]) if rows else torch.zeros(0, width, dtype=torch.float64)


def paper_child_sum(cell, x, C):  # arXiv:1503.00075, eq. 2-8; C[j]: the children of j
    W_i, W_f, W_u, W_o = cell.weight_ih.chunk(4)
    U_i, U_f, U_u, U_o = cell.weight_hh.chunk(4)
    b_i, b_f, b_u, b_o = cell.bias.chunk(4)
    h, c = {}, {}

    def visit(j, children):
        h_tilde = sum((h[k] for k in children), torch.zeros_like(b_i))
        i_j = sigma(W_i @ x[j] + U_i @ h_tilde + b_i)
        o_j = sigma(W_o @ x[j] + U_o @ h_tilde + b_o)
        u_j = tanh(W_u @ x[j] + U_u @ h_tilde + b_u)
        c[j] = i_j * u_j
        for k in children:
            f_jk = sigma(W_f @ x[j] + U_f @ h[k] + b_f)
            c[j] = c[j] + f_jk * c[k]
        h[j] = o_j * tanh(c[j])

    in_order(C, visit)
    return stacked(h, 4), stacked(c, 4)


def paper_nary(cell, x, C, N):  # arXiv:1503.00075, eq. 9-14; C[j]: {position: child}
    H = cell.hidden_features
    W_i, W_f, W_u, W_o = cell.weight_ih.chunk(4)
    b_i, b_f, b_u, b_o = cell.bias.chunk(4)
    U = {(r, l): cell.weight_hh[r * H : (r + 1) * H, l * H : (l + 1) * H] for r in range(3 + N) for l in range(N)}
    h, c = {}, {}

    def visit(j, _):
        def total(row):  # sum_l U_l h_jl
            return sum((U[row, l] @ h[k] for l, k in C[j].items()), torch.zeros_like(b_i))

        i_j = sigma(W_i @ x[j] + total(0) + b_i)
        u_j = tanh(W_u @ x[j] + total(1 + N) + b_u)
        o_j = sigma(W_o @ x[j] + total(2 + N) + b_o)
        c[j] = i_j * u_j
        for k, child in C[j].items():
            f_jk = sigma(W_f @ x[j] + total(1 + k) + b_f)
            c[j] = c[j] + f_jk * c[child]
        h[j] = o_j * tanh(c[j])

    in_order([list(children.values()) for children in C], visit)
    return stacked(h, H), stacked(c, H)


def paper_tree_gru(cell, x, C):
    W_r, W_z, W_n = cell.weight_ih.chunk(3)
    U_r, U_z, U_n = cell.weight_hh.chunk(3)
    b_r, b_z, b_n = cell.bias.chunk(3)
    h = {}

    def visit(j, children):
        zero = torch.zeros_like(b_r)
        h_tilde = sum((h[k] for k in children), zero)
        r = {k: sigma(W_r @ x[j] + U_r @ h[k] + b_r) for k in children}
        z = sigma(W_z @ x[j] + U_z @ h_tilde + b_z)
        if cell.reset == "before":
            n = tanh(W_n @ x[j] + U_n @ sum((r[k] * h[k] for k in children), zero) + b_n)
        else:
            n = tanh(W_n @ x[j] + sum((r[k] * (U_n @ h[k]) for k in children), zero) + b_n)
        h[j] = (1 - z) * n + z * h_tilde

    in_order(C, visit)
    return stacked(h, 4)


def sources_of(edge_index, num_nodes):
    sources = [[] for _ in range(num_nodes)]
    for j, i in edge_index.t().tolist():
        sources[i].append(j)
    return sources


@pytest.mark.parametrize("name", graphs("dag"))
def test_child_sum_tree_lstm_is_the_papers_in_both_directions_on_any_dag(name):
    data = graphs("dag")[name]
    layer, x = randomised(ChildSumTreeLSTM(3, 4, bidirectional=True)), inputs(data)
    up = paper_child_sum(layer, x, sources_of(data.edge_index, data.num_nodes))
    down = paper_child_sum(layer.reverse, x, sources_of(data.edge_index.flip(0), data.num_nodes))
    theirs = tuple(torch.cat(pair, dim=1) for pair in zip(up, down, strict=True))
    assert_same(layer(x, data.edge_index), theirs, [x, *layer.parameters()], what=name)


@pytest.mark.parametrize("reset", ["before", "after"])
@pytest.mark.parametrize("name", graphs("dag"))
def test_tree_gru_is_its_formula_in_both_directions_on_any_dag(name, reset):
    data = graphs("dag")[name]
    layer, x = randomised(TreeGRU(3, 4, reset, bidirectional=True)), inputs(data)
    up = paper_tree_gru(layer, x, sources_of(data.edge_index, data.num_nodes))
    down = paper_tree_gru(layer.reverse, x, sources_of(data.edge_index.flip(0), data.num_nodes))
    assert_same(layer(x, data.edge_index), torch.cat([up, down], dim=1), [x, *layer.parameters()], what=name)


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("num_children", [2, 3])
def test_nary_tree_lstm_is_the_papers_in_both_directions(name, num_children):
    tree = brackets(TREES[name])
    layer, x = randomised(NaryTreeLSTM(3, 4, num_children, bidirectional=True)), inputs(tree)
    children = children_of(tree)
    parent = [{} for _ in children]
    for i, mine in enumerate(children):
        for k, j in mine.items():
            parent[j] = {k: i}
    up, down = paper_nary(layer, x, children, num_children), paper_nary(layer.reverse, x, parent, num_children)
    theirs = tuple(torch.cat(pair, dim=1) for pair in zip(up, down, strict=True))
    leaves = [x, *layer.parameters()]
    assert_same(layer(x, tree.edge_index, tree.child), theirs, leaves, what=name)


def test_a_forget_gate_of_a_nary_tree_lstm_sees_the_sibling():
    tree, layer = brackets(TREES["a pair"]), randomised(NaryTreeLSTM(3, 4))
    x = inputs(tree)
    before = layer(x, tree.edge_index, tree.child)[1][0]
    with torch.no_grad():
        layer.weight_hh[4:8, 4:] = 0.0  # U_01: from the child at 1 to the forget gate of the one at 0
    assert not torch.allclose(layer(x, tree.edge_index, tree.child)[1][0], before)


def torch_rnn(kind, layer, blocks):
    """torch's layer with our weights, its second bias 0, and what gradients are taken of, side by side."""
    theirs = getattr(torch.nn, kind)(3, 4, bidirectional=True).double()
    ours, their = [], []
    for mine, way in ((layer, ""), (layer.reverse, "_reverse")):
        for name, theirname in (("weight_ih", "weight_ih"), ("weight_hh", "weight_hh"), ("bias", "bias_ih")):
            ours.append(getattr(mine, name))
            their.append(getattr(theirs, f"{theirname}_l0{way}"))
        torch.nn.init.zeros_(getattr(theirs, f"bias_hh_l0{way}"))
    with torch.no_grad():
        for a, b in zip(ours, their, strict=True):
            b.copy_(a)
    return theirs, ours, their


@pytest.mark.parametrize("length", [1, 2, 9])
def test_a_child_sum_tree_lstm_on_a_chain_is_torchs_lstm(length):
    layer, data = randomised(ChildSumTreeLSTM(3, 4, bidirectional=True)), chain(length)
    theirs, ours, their = torch_rnn("LSTM", layer, 4)
    x = inputs(data)
    h, c = layer(x, data.edge_index)
    expected, (_, last) = theirs(x)
    assert_same(h, expected, [x, *ours], [x, *their])
    assert_close(torch.stack([c[-1, :4], c[0, 4:]]), last, "c")


@pytest.mark.parametrize("length", [1, 2, 9])
def test_a_nary_tree_lstm_with_one_position_on_a_chain_is_torchs_lstm(length):
    layer, data = randomised(NaryTreeLSTM(3, 4, 1, bidirectional=True)), chain(length)
    theirs, ours, their = torch_rnn("LSTM", layer, 4)
    x, child = inputs(data), torch.zeros(length - 1, dtype=torch.long)
    assert_same(layer(x, data.edge_index, child)[0], theirs(x)[0], [x, *ours], [x, *their])


@pytest.mark.parametrize("length", [1, 2, 9])
def test_a_tree_gru_that_resets_after_the_product_is_torchs_gru_on_a_chain(length):
    layer, data = randomised(TreeGRU(3, 4, "after", bidirectional=True)), chain(length)
    theirs, ours, their = torch_rnn("GRU", layer, 3)
    x = inputs(data)
    assert_same(layer(x, data.edge_index), theirs(x)[0], [x, *ours], [x, *their])


LAYERS = {"child-sum": lambda: ChildSumTreeLSTM(3, 4, True), "nary": lambda: NaryTreeLSTM(3, 4, 2, True)}
LAYERS["gru"] = lambda: TreeGRU(3, 4, bidirectional=True)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_batch_of_trees_is_the_trees_one_by_one(kind):
    trees, layer = [brackets(text) for text in TREES.values()], randomised(LAYERS[kind]())
    batch = Batch.from_data_list(trees)
    x = torch.randn(batch.num_nodes, 3, dtype=torch.float64, requires_grad=True)

    def run(x, tree):
        out = layer(x, tree.edge_index, tree.child) if kind == "nary" else layer(x, tree.edge_index)
        return out if isinstance(out, tuple) else (out,)

    parts = x.split([tree.num_nodes for tree in trees])
    alone = zip(*(run(part, tree) for part, tree in zip(parts, trees, strict=True)), strict=True)
    assert_same(run(x, batch), tuple(map(torch.cat, alone)), [x, *layer.parameters()])


def test_deep_trees_have_no_limit():
    layer, data = ChildSumTreeLSTM(3, 4), chain(5000)
    h, _ = layer(torch.ones(5000, 3), data.edge_index)
    h[-1].sum().backward()
    assert h.isfinite().all() and layer.weight_hh.grad.abs().sum() > 0


def test_an_unknown_place_of_the_reset_gate_is_an_error():
    with pytest.raises(ValueError, match="TreeGRU: reset='later' is unknown; expected 'before' or 'after'"):
        TreeGRU(3, 4, "later")
