import pytest
import torch
import torch.nn.functional as F
from compare import assert_close, assert_golden, assert_same, randomised
from networks import PAP, PSP, PTA, TAP, typed
from torch_geometric.data import Batch
from torch_geometric.nn import HANConv
from zoo import graphs

import mpnn
from mpnn.hetero import complete
from mpnn.loader import collate
from mpnn.nn import HAN, SemanticAttention


def paper_han(layer, x, edge_index):  # arXiv:1903.07293, eq. 1-9, one node, head and meta-path at a time
    K, width = layer.heads, layer.out_features
    M = {kind: layer.linear[kind].weight.view(K, width, -1) for kind in x}
    bias = {kind: 0 if layer.linear[kind].bias is None else layer.linear[kind].bias.view(K, width) for kind in x}

    def project(kind, i):  # eq. 1
        return torch.stack([M[kind][k] @ x[kind][i] for k in range(K)]) + bias[kind]

    z = {}
    for path in layer.metapaths:
        src, _, dst = path
        rows = []
        for i in range(len(x[dst])):
            N_i = [j for j, t in edge_index[path].t().tolist() if t == i]
            if src == dst and layer.self_loops:
                N_i = [j for j in N_i if j != i] + [i]
            heads = []
            for k in range(K):
                a = torch.cat([layer.att_dst[path][k], layer.att_src[path][k]])
                h_i, h = project(dst, i)[k], [project(src, j)[k] for j in N_i]
                e = [F.leaky_relu(a @ torch.cat([h_i, h_j]), 0.2) for h_j in h]  # eq. 2
                alpha = torch.stack(e).softmax(0) if e else []  # eq. 3
                total = sum((a_ij * h_j for a_ij, h_j in zip(alpha, h, strict=True)), torch.zeros_like(h_i))
                heads.append(layer.activation(total))  # eq. 4
            rows.append(torch.cat(heads))  # eq. 6
        z.setdefault(dst, []).append(rows)
    W, b, q = layer.mix.project.weight, layer.mix.project.bias, layer.mix.q
    out = {}
    for kind, along in z.items():
        w = torch.stack([sum(q @ torch.tanh(W @ z_i + b) for z_i in rows) / len(rows) for rows in along])  # eq. 7
        beta = w.exp() / w.exp().sum()  # eq. 8
        mixed = [sum(share * rows[i] for share, rows in zip(beta, along, strict=True)) for i in range(len(along[0]))]
        out[kind] = torch.stack(mixed)  # eq. 9
    return out


@pytest.mark.parametrize(
    "options",
    [{}, {"self_loops": False}, {"bias": True, "activation": torch.tanh}],
    ids=["plain", "no loops", "bias and tanh"],
)
def test_han_is_the_papers_formula(options):
    for seed in range(3):
        data = typed(seed=seed)
        layer = randomised(HAN({"paper": 3, "term": 2}, 2, [PAP, TAP, PSP, PTA], 3, 4, **options))
        x = {kind: values.requires_grad_() for kind, values in data.x_dict.items()}
        ours, theirs = (call(x, data.edge_index_dict) for call in (layer, lambda *a: paper_han(layer, *a)))  # noqa: B023
        assert ours.keys() == theirs.keys() == {"paper", "term"}
        for kind in ours:
            assert_same(ours[kind], theirs[kind], [*x.values(), *layer.parameters()], what=f"{seed}, {kind}")


def golden_names(layer):
    names = {"mix.q": "q", "mix.project.weight": "k_lin.weight", "mix.project.bias": "k_lin.bias"}
    for kind in ("paper", "term"):
        names |= {f"linear.{kind}.{part}": f"proj.{kind}.{part}" for part in ("weight", "bias")}
    for path in layer.metapaths:
        for end in ("src", "dst"):
            names[f"att_{end}.<{'___'.join(path)}>"] = f"lin_{end}.{'__'.join(path)}"
    return names


@pytest.mark.parametrize("self_loops", [False, True])
def test_han_equals_torch_geometric(self_loops):
    paths = [PAP, PSP, TAP, PTA]
    for seed in range(3):
        data = typed(seed=seed)
        ours = HAN({"paper": 3, "term": 2}, 2, paths, 3, 6, bias=True, activation=F.relu, self_loops=self_loops)
        theirs = HANConv({"paper": 3, "term": 2}, 6, (["paper", "term"], paths), heads=3).double()

        def edges(loops):
            found = dict(data.edge_index_dict)  # noqa: B023
            for path in (PAP, PSP) if loops else ():
                kept = found[path][:, found[path][0] != found[path][1]]
                found[path] = torch.cat([kept, torch.arange(5).expand(2, -1)], dim=1)
            return found

        def of(layer, loops):
            def call(paper, term):
                out = layer({"paper": paper, "term": term}, edges(loops))  # noqa: B023
                return out["paper"], out["term"]

            return call

        calls = of(ours.double(), False), of(theirs, self_loops)
        inputs = data["paper"].x, data["term"].x
        assert_golden(ours, theirs, golden_names(ours), *inputs, calls=calls, what=f"{seed}")


def test_the_weights_are_those_that_torch_geometric_gives():
    data, paths = typed(), [PAP, PSP, TAP, PTA]
    ours = randomised(HAN({"paper": 3, "term": 2}, 2, paths, 3, 6, bias=True, activation=F.relu, self_loops=False))
    theirs = HANConv({"paper": 3, "term": 2}, 6, (["paper", "term"], paths), heads=3).double()
    there = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            other = there[golden_names(ours)[name]]
            other.copy_(parameter.view_as(other))
    _, expected = theirs(data.x_dict, data.edge_index_dict, return_semantic_attention_weights=True)
    for kind, beta in ours.weights(data.x_dict, data.edge_index_dict).items():
        assert_close(beta[0], expected[kind], kind)


def test_with_one_meta_path_it_is_gat():
    for name, data in graphs().items():
        gat, han = randomised(mpnn.nn.GAT(3, 2, heads=2, bias=False)), randomised(HAN(3, 2, [PAP], heads=2))
        with torch.no_grad():
            han.linear["paper"].weight.copy_(gat.linear.weight)
            han.att_src[PAP].copy_(gat.att_src)
            han.att_dst[PAP].copy_(gat.att_dst)
        x = torch.randn(data.num_nodes, 3).double()
        ours = han({"paper": x}, {PAP: data.edge_index})["paper"]
        assert_close(ours, F.elu(gat(x, data.edge_index)), name)


def test_a_graph_alone_and_in_a_batch_gives_the_same_where_some_have_no_node_or_edge_of_a_type():
    layer = randomised(HAN({"paper": 3, "term": 2}, 2, [PAP, TAP, PSP, PTA], 3, 4))
    given = [typed(seed=0), typed(3, 2, seed=1), typed(4, 1, seed=2), typed(2, 3, seed=3)]
    del given[0][PSP], given[1]["term"], given[1][TAP], given[1][PTA], given[3]["paper"]
    for path in (PAP, PSP, TAP, PTA):
        del given[3][path]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        batch = collate(complete([given[k] for k in order]))
        together = layer(batch.x_dict, batch.edge_index_dict, batch.batch_dict, batch.num_graphs)
        for place, k in enumerate(order):
            alone = layer(given[k].x_dict, given[k].collect("edge_index", allow_empty=True))
            for kind, values in alone.items():
                part = together[kind][batch[kind].batch == place]
                assert_close(part, values, f"graph {k}, {kind}")
            assert set(alone) == set(given[k].node_types)


def test_no_paper_in_a_graph_leaves_all_meta_paths_their_share():
    mix = SemanticAttention(2, 3).double()
    batch = torch.tensor([1, 1])
    beta = mix.weights([torch.randn(2, 2).double(), torch.randn(2, 2).double()], batch, 3)
    assert beta.shape == (3, 2) and beta[[0, 2]].tolist() == [[0.5, 0.5]] * 2 and (beta[1] != 0.5).all()


def test_a_graph_of_its_own_for_some_nodes_is_what_the_weights_are_taken_over():
    layer, data = randomised(HAN(3, 2, [PAP, PSP], 3, 4)), typed()
    batch = {"paper": torch.tensor([0, 1, 0, 1, 1])}
    z = layer.along({"paper": data["paper"].x}, data.edge_index_dict)["paper"]
    some = [values[[0, 2]] for values in z.values()]
    expected = layer.mix(some)
    assert_close(layer({"paper": data["paper"].x}, data.edge_index_dict, batch, 2)["paper"][[0, 2]], expected, "")


def test_sparse_bags_of_words_give_what_dense_ones_do():
    layer, data = randomised(HAN(3, 2, [PAP, PSP], 3, 4)), typed()
    x = data["paper"].x * (torch.rand(5, 3) < 0.5)
    dense, sparse = (layer({"paper": v}, data.edge_index_dict)["paper"] for v in (x, x.to_sparse_csr()))
    assert_same(sparse, dense, list(layer.parameters()))


def test_every_meta_path_is_a_sparse_product():
    with mpnn.engine("spmm"):
        data = typed()
        HAN({"paper": 3, "term": 2}, 2, [PAP, TAP], 3).double()(data.x_dict, data.edge_index_dict)


def test_attention_dropout_stops_in_evaluation():
    layer, data = HAN(3, 2, [PAP], dropout=0.6).double(), typed()
    given = {"paper": data["paper"].x}, data.edge_index_dict
    torch.manual_seed(0)
    assert not torch.equal(layer(*given)["paper"], layer(*given)["paper"])
    layer.eval()
    assert torch.equal(layer(*given)["paper"], layer(*given)["paper"])


def test_a_han_without_meta_paths_is_refused():
    with pytest.raises(ValueError, match="HAN: metapaths is empty; expected at least one edge type"):
        HAN(3, 2, [])


def test_an_edge_that_leaves_the_graph_is_named():
    data = typed()
    data[TAP].edge_index[0, 4] = 7
    with pytest.raises(ValueError, match=r"HAN: edge 4 \(7 -> .\) leaves the graph, which has 3 sources and 5 targets"):
        HAN({"paper": 3, "term": 2}, 2, [TAP]).double()(data.x_dict, data.edge_index_dict)


def test_a_plan_of_all_types_does_for_the_edges_of_each():
    data, layer = typed(), randomised(HAN({"paper": 3, "term": 2}, 2, [PAP, TAP, PTA], 3, 4))
    expected = layer(data.x_dict, data.edge_index_dict)
    for schedule in ("synchronous", mpnn.schedule.coloured.reverse):
        laid_out = mpnn.plan(data, schedule)
        for kind, values in layer(data.x_dict, laid_out).items():
            assert_close(values, expected[kind], kind)
    with pytest.raises(ValueError, match="HAN: the plan is of a graph whose nodes have no types"):
        layer(data.x_dict, mpnn.plan(data[PAP].edge_index, num_nodes=5))


def test_a_batch_of_heterodata_of_torch_geometric_will_do():
    data = [typed(seed=1), typed(seed=2)]
    batch = Batch.from_data_list(data)
    layer = randomised(HAN(3, 2, [PAP, PSP], 3, 4))
    together = mpnn.apply(layer, batch)["paper"].x
    assert_close(together, torch.cat([mpnn.apply(layer, one)["paper"].x for one in data]), "")


def test_misspelt_metapaths_are_not_taken_for_a_graph_without_edges():
    data = typed()
    widths = {kind: x.shape[1] for kind, x in data.x_dict.items()}
    layer = HAN(widths, 4, [("paper", "PBP", "paper")]).double()
    with pytest.raises(ValueError, match=r"HAN: there are no edges of the types \('paper', 'PBP', 'paper'\), only of"):
        layer(data.x_dict, data.edge_index_dict)
    with pytest.raises(TypeError, match="HAN: metapaths has 'PAP'; expected edge types"):
        HAN(widths, 4, ["PAP"])
