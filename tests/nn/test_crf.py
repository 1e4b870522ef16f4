import itertools
import re

import pytest
import torch
from compare import assert_close, assert_same, randomised
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import graph_of, normal, seeds
from torch_geometric.data import Batch

import mpnn
from mpnn.graphs import chain, heads
from mpnn.nn import CRF, forbidden_transitions


@st.composite
def forests(draw, max_nodes=5):
    """Chains, trees and several of them, with edges child -> parent; ids mean nothing."""
    n = draw(st.integers(0, max_nodes))
    name = draw(st.permutations(range(n)))
    parents = [draw(st.sampled_from([None, *range(j + 1, n)])) for j in range(n)]
    return graph_of(n, [(name[j], name[i]) for j, i in enumerate(parents) if i is not None])


def labellings(crf, x, edge_index):
    """Every labelling and its score, written from the definition of s(y)."""
    n, K = x.shape
    edges = edge_index.t().tolist()
    first, last = set(range(n)) - {i for _, i in edges}, set(range(n)) - {j for j, _ in edges}
    forbidden = torch.zeros(K + 1, K + 1, dtype=torch.bool) if crf.forbidden is None else crf.forbidden
    every = list(itertools.product(range(K), repeat=n))
    scores = []
    for y in every:
        s = sum((x[i, y[i]] for i in range(n)), x.new_zeros(()))
        steps = [(y[j], y[i]) for j, i in edges] + [(K, y[i]) for i in first] + [(y[i], K) for i in last]
        for a, b in steps:
            paid = crf.start[b] if a == K else crf.end[a] if b == K else crf.transition[a, b]
            s = s + (paid - torch.inf if forbidden[a, b] else paid)
        scores.append(s)
    return torch.tensor(every, dtype=torch.long).reshape(len(every), n), torch.stack(scores)


def case(graph, K, seed, forbid=False):
    """A random field in float64 and emissions; with some transitions forbidden, but never all labellings."""
    generator = torch.Generator().manual_seed(seed)
    forbidden = None
    if forbid:
        forbidden = torch.rand(K + 1, K + 1, generator=generator) < 0.4
        forbidden[0, 0] = forbidden[0, K] = forbidden[K, 0] = False  # tag 0 everywhere is a labelling
    crf = randomised(CRF(K, forbidden))
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return crf, normal(generator, graph.num_nodes, K)


@given(forests(), st.integers(1, 3), st.booleans(), seeds)
@settings(max_examples=60)
def test_everything_is_what_enumeration_of_all_labellings_gives_with_gradients(graph, K, forbid, seed):
    crf, x = case(graph, K, seed, forbid)
    every, scores = labellings(crf, x, graph.edge_index)
    kept = scores > -torch.inf
    every, scores = every[kept], scores[kept]
    leaves = [x, *crf.parameters()]
    total = scores.logsumexp(0, keepdim=True)
    assert_same(crf.log_partition(x, graph.edge_index), total, leaves, what="log Z")
    chosen = int(torch.randint(len(every), (1,)))
    log_p = crf.log_likelihood(x, every[chosen], graph.edge_index)
    assert_same(log_p, scores[chosen] - total, leaves, what="log p")
    p = scores.softmax(0)
    here = torch.nn.functional.one_hot(every, K).double()
    assert_same(crf.marginals(x, graph.edge_index), torch.einsum("y,ynk->nk", p, here), leaves, what="marginals")
    best = crf.decode(x, graph.edge_index)
    assert_close(crf.score(x, best, graph.edge_index), scores.max().reshape(1), "best score")
    if graph.num_nodes and scores.numel() > 1 and scores.topk(2).values.diff().abs() > 1e-9:
        assert best.tolist() == every[scores.argmax()].tolist()


@given(forests(), seeds)
@settings(max_examples=20)
def test_marginals_are_the_gradient_of_log_z(graph, seed):
    crf, x = case(graph, 3, seed, forbid=True)
    (gradient,) = torch.autograd.grad(crf.log_partition(x, graph.edge_index).sum(), x)
    assert_close(crf.marginals(x, graph.edge_index).detach(), gradient, "marginals")


@pytest.mark.parametrize("forbid", [False, True])
def test_gradcheck_on_a_tree_and_a_chain(forbid):
    graph = Batch.from_data_list([graph_of(5, [(0, 2), (1, 2), (2, 4), (3, 4)]), chain(3)])
    crf, x = case(graph, 3, 0, forbid)
    x = x.requires_grad_()

    def both(x, *_):
        return crf.log_partition(x, graph.edge_index, graph.batch), crf.marginals(x, graph.edge_index)

    assert torch.autograd.gradcheck(both, (x, *crf.parameters()))


@given(st.lists(forests(), min_size=1, max_size=4), seeds)
@settings(max_examples=20)
def test_a_batch_gives_what_its_graphs_give_one_by_one(several, seed):
    batch = Batch.from_data_list(several)
    crf, x = case(batch, 3, seed)
    tags = torch.randint(3, (batch.num_nodes,))
    parts = list(zip(x.split([g.num_nodes for g in several]), tags.split([g.num_nodes for g in several]), several))
    together = crf.log_likelihood(x, tags, batch.edge_index, batch.batch, len(several))
    alone = torch.cat([crf.log_likelihood(a, t, g.edge_index) for a, t, g in parts])
    assert_same(together, alone, [x, *crf.parameters()], what="log p")
    assert_close(crf.loss(x, tags, batch.edge_index, batch.batch, len(several)), -alone.mean(), "loss")
    alone = torch.cat([crf.marginals(a, g.edge_index) for a, _, g in parts])
    assert_close(crf.marginals(x, batch.edge_index), alone, "marginals")
    best = torch.cat([crf.decode(a, g.edge_index) for a, _, g in parts])
    assert crf.decode(x, batch.edge_index).equal(best)


class Trellis(mpnn.MessagePassing):
    """The same recursion on the graph of (node, tag) pairs, where the sum over tags is an aggregation over edges."""

    state, schedule, hidden_features = ("alpha",), "topological", 1

    def __init__(self, reduce):
        super().__init__()
        self.reduce = reduce

    def message(self, alpha_j, weight):
        return alpha_j + weight

    def aggregate(self, message, index, num_nodes):
        rows = [self.reduce(message[index == i]) for i in range(num_nodes)]
        return torch.stack(rows) if rows else message

    def update(self, own, message):
        return own + message


@pytest.mark.parametrize("reduce", ["logsumexp", "max"])
def test_on_a_chain_it_is_the_trellis_aggregated_by_logsumexp_or_by_the_maximum(reduce):
    n, K = 6, 3
    crf, x = case(chain(n), K, 5)
    src, dst, weight = zip(*[
        (t * K + a, t * K + K + b, crf.transition[a, b]) for t in range(n - 1) for a in range(K) for b in range(K)
    ])  # fmt: skip

    def total(values):
        if not len(values):
            return values.new_zeros(1)
        return values.logsumexp(0) if reduce == "logsumexp" else values.amax(0)

    own = torch.cat([x[:1] + crf.start, x[1:]]).reshape(-1, 1)
    alpha = Trellis(total).propagate(torch.tensor([src, dst]), own=own, weight=torch.stack(weight)[:, None])
    score = total((alpha.view(n, K)[-1] + crf.end)[:, None])
    if reduce == "logsumexp":
        assert_same(crf.log_partition(x, chain(n).edge_index), score, [x, *crf.parameters()])
    else:
        edges = chain(n).edge_index
        assert_close(crf.score(x, crf.decode(x, edges), edges), score, "best score")


def test_a_chain_of_t_nodes_is_t_frontiers_over_the_whole_batch():
    batch = Batch.from_data_list([chain(n) for n in (4, 1, 7)])
    assert mpnn.plan(batch, "topological").node_counts == [3, 2, 2, 2, 1, 1, 1]


def test_a_plan_is_taken_and_every_way_of_running_agrees():
    graph = Batch.from_data_list([heads([2, 0, 5, 5, 2]), heads([2, 3, 4, 0])])
    crf, x = case(graph, 3, 1, forbid=True)
    planned = mpnn.plan(graph, "topological")
    tags = crf.decode(x, graph.edge_index)
    assert tags.tolist() == crf.decode(x, planned).tolist()
    for ask in (lambda g: crf.marginals(x, g), lambda g: crf.log_likelihood(x, tags, g, graph.batch)):
        with mpnn.engine("reference"):
            expected = ask(graph.edge_index)
        assert_same(ask(planned), expected, [x, *crf.parameters()])
    with mpnn.engine("reference"):
        assert tags.tolist() == crf.decode(x, graph.edge_index).tolist()


def test_a_long_chain_stays_finite_in_float32():
    crf, n = CRF(3, forbidden_transitions(["O", "B-X", "I-X"], "BIO")), 5000
    x = (100 * torch.randn(n, 3)).requires_grad_()
    edges = chain(n).edge_index
    assert crf.marginals(x, edges).sum(1).allclose(torch.ones(n), atol=1e-4)
    crf.loss(x, crf.decode(x, edges), edges).backward()
    assert all(p.grad.isfinite().all() for p in (x, *crf.parameters()))


def test_its_repr_says_whether_transitions_are_forbidden():
    assert repr(CRF(3)) == "CRF(3)"
    assert repr(CRF(2, forbidden_transitions(["O", "I-X"], "BIO"))) == "CRF(2, with forbidden transitions)"


def valid(tags, pattern):
    return re.fullmatch(pattern, " ".join([*tags, ""])) is not None


BIO = "(O |B-X (I-X )*|B-Y (I-Y )*)*"
BMES = "(O |S-X |S-Y |B-X (M-X )*E-X |B-Y (M-Y )*E-Y )*"


@pytest.mark.parametrize(
    "scheme, pattern, tags",
    [
        ("BIO", BIO, ["I-X", "O", "B-Y", "I-Y", "B-X"]),
        ("BMES", BMES, ["O", "B-X", "M-X", "E-X", "S-X", "B-Y", "M-Y", "E-Y", "S-Y"]),
    ],
)
def test_a_scheme_forbids_exactly_the_taggings_that_are_not_of_its_form(scheme, pattern, tags):
    forbidden, K = forbidden_transitions(tags, scheme), len(tags)
    for n in range(1, 5 if scheme == "BIO" else 4):
        for y in itertools.product(range(K), repeat=n):
            steps = zip([K, *y], [*y, K])
            assert (not any(forbidden[a, b] for a, b in steps)) == valid([tags[k] for k in y], pattern), y


def test_bioes_tags_are_bmes_by_another_name():
    names = ["O", "B-X", "M-X", "E-X", "S-X"]
    assert forbidden_transitions(names, "BMES").equal(
        forbidden_transitions([n.replace("M", "I") for n in names], "BMES")
    )


@given(seeds)
@settings(max_examples=20)
def test_what_is_forbidden_is_never_decoded_and_has_no_probability(seed):
    tags = ["O", "B-X", "M-X", "E-X", "S-X"]
    crf = randomised(CRF(5, forbidden_transitions(tags, "BMES")))
    x = normal(torch.Generator().manual_seed(seed), 6, 5)
    edges = chain(6).edge_index
    assert valid([tags[k] for k in crf.decode(x, edges)], BMES)
    p = crf.marginals(x, edges)
    assert p[0, [2, 3]].eq(0).all() and p[-1, [1, 2]].eq(0).all() and p.sum(1).allclose(torch.ones(6).double())


def test_forbidden_and_unknown_tags_are_refused_by_node():
    crf, x, edges = CRF(3, forbidden_transitions(["O", "B-X", "I-X"], "BIO")), torch.zeros(3, 3), chain(3).edge_index
    with pytest.raises(ValueError, match="at node 2, tag 2 follows tag 0, which is forbidden.*1 such"):
        crf.loss(x, torch.tensor([1, 0, 2]), edges)
    with pytest.raises(ValueError, match="at node 0, tag 2 follows the start"):
        crf.loss(x, torch.tensor([2, 0, 0]), edges)
    assert crf.score(x, torch.tensor([1, 0, 2]), edges).tolist() == [-torch.inf]
    bmes = CRF(2, forbidden_transitions(["S-X", "B-X"], "BMES"))
    with pytest.raises(ValueError, match="at node 1, the end follows tag 1"):
        bmes.loss(x[:2, :2], torch.tensor([0, 1]), chain(2).edge_index)
    with pytest.raises(ValueError, match=r"node 1 has tag -1; expected tags in \[0, 3\).*1 of 3"):
        crf.loss(x, torch.tensor([0, -1, 0]), edges)
    with pytest.raises(ValueError, match=r"shape \(2,\); expected \(3,\)"):
        crf.loss(x, torch.tensor([0, 0]), edges)


def test_what_is_no_forest_is_refused_by_node():
    crf, x = CRF(2), torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"node 1 has edges to 0, 2;.*1 nodes have more.*flip\(0\)"):
        crf.marginals(x, torch.tensor([[1, 1], [0, 2]]))
    with pytest.raises(mpnn.schedule.CycleError, match="-> 0 -> "):
        crf.marginals(x, torch.tensor([[0, 1], [1, 0]]))
    with pytest.raises(ValueError, match="plan was made for synchronous"):
        crf.marginals(x, mpnn.plan(chain(3)))
    with pytest.raises(ValueError, match="x has 3 features.*expected 2"):
        crf.marginals(torch.zeros(3, 3), chain(3).edge_index)


def test_schemes_and_tags_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="scheme='IOB' is unknown; expected 'BIO' or 'BMES'"):
        forbidden_transitions(["O"], "IOB")
    with pytest.raises(ValueError, match="tag 1 is 'E-X'; expected 'O', or one of B, I,"):
        forbidden_transitions(["O", "E-X"], "BIO")
    with pytest.raises(ValueError, match=r"forbidden is shape \(2, 2\); expected \(3, 3\)"):
        CRF(2, torch.zeros(2, 2))
