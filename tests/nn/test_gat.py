import re

import pytest
import torch
from compare import assert_golden, assert_same, randomised
from torch_geometric.nn import GATConv, GATv2Conv
from zoo import graphs

import mpnn


def neighbours(edge_index, i, self_loops):
    """The sources of the edges into i; with ``self_loops``, i itself exactly once."""
    sources = [j for j, t in edge_index.t().tolist() if t == i]
    return [j for j in sources if j != i] + [i] if self_loops else sources


def attend(e, values):
    if not e:
        return torch.zeros_like(values[0]) if values else None
    alpha = torch.stack(e).softmax(0)
    return sum(a * v for a, v in zip(alpha, values, strict=True))


def paper_gat(layer, x, edge_index):  # arXiv:1710.10903, eq. 1-6, one node and one head at a time
    K, F = layer.heads, layer.out_features
    W = layer.linear.weight.view(K, F, -1)
    rows = []
    for i in range(x.shape[0]):
        N_i = neighbours(edge_index, i, layer.self_loops)
        heads = []
        for k in range(K):
            a = torch.cat([layer.att_dst[k], layer.att_src[k]])
            e = [torch.nn.functional.leaky_relu(a @ torch.cat([W[k] @ x[i], W[k] @ x[j]]), 0.2) for j in N_i]
            heads.append(attend(e, [W[k] @ x[j] for j in N_i]) if N_i else x.new_zeros(F))
        rows.append((torch.cat(heads) if layer.concat else sum(heads) / K) + layer.bias)
    return rows


def paper_gatv2(layer, x, edge_index):  # arXiv:2105.14491, eq. 7
    K, F = layer.heads, layer.out_features

    def parts(linear):
        return linear.weight.view(K, F, -1), linear.bias.view(K, F)

    (W_src, b_src), (W_dst, b_dst) = parts(layer.source), parts(layer.target)
    rows = []
    for i in range(x.shape[0]):
        N_i = neighbours(edge_index, i, layer.self_loops)
        heads = []
        for k in range(K):
            values = [W_src[k] @ x[j] + b_src[k] for j in N_i]
            own = W_dst[k] @ x[i] + b_dst[k]
            e = [layer.att[k] @ torch.nn.functional.leaky_relu(value + own, 0.2) for value in values]
            heads.append(attend(e, values) if N_i else x.new_zeros(F))
        rows.append((torch.cat(heads) if layer.concat else sum(heads) / K) + layer.bias)
    return rows


PAPERS = {mpnn.nn.GAT: paper_gat, mpnn.nn.GATv2: paper_gatv2}


@pytest.mark.parametrize("kind", PAPERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("options", [{}, {"concat": False}, {"self_loops": False}], ids=str)
def test_attention_is_the_papers_formula(kind, options):
    for name, data in graphs().items():
        layer = randomised(kind(3, 2, heads=2, **options))
        x = torch.randn(data.num_nodes, 3, dtype=torch.float64, requires_grad=True)
        rows = PAPERS[kind](layer, x, data.edge_index)
        theirs = torch.stack(rows) if rows else x.new_zeros(0, 4 if layer.concat else 2)
        assert_same(layer(x, data.edge_index), theirs, [x, *layer.parameters()], what=name)


@pytest.mark.parametrize("options", [{}, {"concat": False}, {"bias": False}], ids=str)
@pytest.mark.parametrize("self_loops", [True, False])
def test_gat_equals_torch_geometric(options, self_loops):
    names = {"linear.weight": "lin.weight", "att_src": "att_src", "att_dst": "att_dst"}
    names |= {} if "bias" in options else {"bias": "bias"}
    for name, data in graphs().items():
        ours = mpnn.nn.GAT(3, 2, heads=3, self_loops=self_loops, **options).double()
        theirs = GATConv(3, 2, heads=3, add_self_loops=self_loops, **options).double()
        x = torch.randn(data.num_nodes, 3, dtype=torch.float64)
        assert_golden(ours, theirs, names, x, data.edge_index, what=name)


@pytest.mark.parametrize("options", [{}, {"concat": False}, {"bias": False}, {"share": True}], ids=str)
@pytest.mark.parametrize("self_loops", [True, False])
def test_gatv2_equals_torch_geometric(options, self_loops):
    names = {"att": "att", "source.weight": "lin_l.weight"}
    names |= {} if "share" in options else {"target.weight": "lin_r.weight"}
    if "bias" not in options:
        names |= {"bias": "bias", "source.bias": "lin_l.bias"}
        names |= {} if "share" in options else {"target.bias": "lin_r.bias"}
    other = {"share_weights" if key == "share" else key: value for key, value in options.items()}
    for name, data in graphs().items():
        ours = mpnn.nn.GATv2(3, 2, heads=3, self_loops=self_loops, **options).double()
        theirs = GATv2Conv(3, 2, heads=3, add_self_loops=self_loops, **other).double()
        x = torch.randn(data.num_nodes, 3, dtype=torch.float64)
        assert_golden(ours, theirs, names, x, data.edge_index, what=name)


@pytest.mark.parametrize("kind", PAPERS, ids=lambda kind: kind.__name__)
def test_scores_of_a_thousand_do_not_overflow(kind):
    data = graphs()["complete"]
    layer = kind(3, 2)
    out = layer(1e4 * torch.randn(4, 3), data.edge_index)
    assert out.isfinite().all()


@pytest.mark.parametrize("kind", PAPERS, ids=lambda kind: kind.__name__)
def test_attention_dropout_scales_what_it_keeps_and_stops_in_evaluation(kind):
    torch.manual_seed(0)
    hub = torch.stack([torch.arange(1, 4001), torch.zeros(4000, dtype=torch.long)])
    layer, x = kind(1, 1, dropout=0.5), torch.ones(4001, 1)
    layer.eval()
    full = layer(x, hub)[0]
    layer.train()
    dropped = layer(x, hub)[0]
    assert not torch.equal(full, dropped)
    torch.testing.assert_close(dropped, full, rtol=0.1, atol=0.0)
    assert set((layer(x, hub)[1:] / full).round(decimals=3).flatten().abs().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("kind", PAPERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("shape", [(4, 2, 3), (3,)])
def test_features_that_are_no_matrix_are_refused(kind, shape):
    for layer in (kind(3, 2), kind(3, 2, self_loops=False)):
        message = f"{kind.__name__}: x has shape {shape}; expected (N, 3), a row a node"
        with pytest.raises(ValueError, match=re.escape(message)):
            layer(torch.ones(shape), torch.tensor([[0], [1]]))


@pytest.mark.parametrize("kind", PAPERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("widths", [(0, 2), (3, 0)])
def test_features_of_no_width_are_features(kind, widths):
    layer, x = kind(*widths, heads=2), torch.ones(4, widths[0], requires_grad=True)
    out = layer(x, torch.tensor([[0, 1], [1, 2]]))
    assert out.shape == (4, 2 * widths[1])
    out.sum().backward()
