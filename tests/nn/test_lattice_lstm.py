import pytest
import torch
from compare import assert_close, assert_same, randomised
from torch_geometric.data import Batch

import mpnn
from mpnn.lattice import lattice, relations
from mpnn.nn import LSTM, LatticeLSTM
from mpnn.nn.lattice_lstm import joined

sigma, tanh, exp = torch.sigmoid, torch.tanh, torch.exp

SENTENCES = {  # characters, words
    "the lecture's": ("南京市长江大桥", ["南京", "南京市", "市长", "长江", "大桥", "长江大桥"]),
    "nested": ("abcabc", ["ab", "abc", "abca", "bca", "ca", "abcabc"]),
    "no word": ("abcd", []),
    "one word": ("abcd", ["bcd"]),
    "one character": ("a", ["ab"]),
    "nothing": ("", ["ab"]),
    "every two": ("aaaaaaaa", ["aa", "aaa", "aaaa"]),
}


def inputs(data, width=5):
    C, W = data["character"].num_nodes, data["word"].num_nodes
    torch.manual_seed(C + W)
    x, words = torch.randn(C, 3, dtype=torch.float64), torch.randn(W, width, dtype=torch.float64)
    return x.requires_grad_(), words.requires_grad_()


def paper_lattice(cell, x, x_word, spans, coupled):  # spans[w] = (b, e); Zhang & Yang 2018; W^c = [weight_ih weight_hh]
    """From left to right, a character after the other; the way back is that of the mirrored sentence."""
    names = "igo" if coupled else "ifgo"
    W, U, b = (dict(zip(names, m.chunk(len(names)))) for m in (cell.weight_ih, cell.weight_hh, cell.bias))
    W_w, U_w, b_w = (
        dict(zip("ifg", m.chunk(3))) for m in (cell.word_weight_ih, cell.word_weight_hh, cell.word_bias)
    )
    W_l, U_l, b_l = cell.gate_weight_ih, cell.gate_weight_hh, cell.gate_bias
    H = len(b_l)
    h, c, c_word, alpha = {-1: torch.zeros_like(b_l)}, {-1: torch.zeros_like(b_l)}, {}, {}
    for j in range(len(x)):
        i_j, o_j = (sigma(W[k] @ x[j] + U[k] @ h[j - 1] + b[k]) for k in "io")
        c_tilde = tanh(W["g"] @ x[j] + U["g"] @ h[j - 1] + b["g"])
        ending = [w for w, (_, e) in enumerate(spans) if e == j]
        if ending:
            i_word = {w: sigma(W_l @ x[j] + U_l @ c_word[w] + b_l) for w in ending}
            total = exp(i_j) + sum(exp(i_word[w]) for w in ending)
            alpha |= {w: exp(i_word[w]) / total for w in ending}
            c[j] = sum(alpha[w] * c_word[w] for w in ending) + exp(i_j) / total * c_tilde
        else:
            f_j = 1 - i_j if coupled else sigma(W["f"] @ x[j] + U["f"] @ h[j - 1] + b["f"])
            c[j] = f_j * c[j - 1] + i_j * c_tilde
        h[j] = o_j * tanh(c[j])
        for w, (first, _) in enumerate(spans):
            if first == j:
                i_w, f_w = (sigma(W_w[k] @ x_word[w] + U_w[k] @ h[j] + b_w[k]) for k in "if")
                c_w_tilde = tanh(W_w["g"] @ x_word[w] + U_w["g"] @ h[j] + b_w["g"])
                c_word[w] = f_w * c[j] + i_w * c_w_tilde
    rows = [[d[k] for k in range(count)] for d, count in ((h, len(x)), (c, len(x)), (alpha, len(spans)))]
    return tuple(torch.stack(r) if r else torch.zeros(0, H, dtype=x.dtype) for r in rows)


def spans_of(data):
    edges = relations(data)
    return list(zip(edges["begins"][0].tolist(), edges["ends"][1].tolist(), strict=True))


@pytest.mark.parametrize("forget", ["own", "coupled"])
@pytest.mark.parametrize("name", SENTENCES)
def test_the_layer_is_the_papers_in_both_directions(name, forget):
    data, coupled = lattice(*SENTENCES[name]), forget == "coupled"
    layer = randomised(LatticeLSTM(3, 4, 5, forget, bidirectional=True))
    (x, words), spans, n = inputs(data), spans_of(data), data["character"].num_nodes
    *ahead, alpha = paper_lattice(layer, x, words, spans, coupled)
    mirrored = [(n - 1 - e, n - 1 - b) for b, e in spans]
    *back, alpha_back = paper_lattice(layer.reverse, x.flip(0), words, mirrored, coupled)
    theirs = tuple(torch.cat([a, b.flip(0)], 1) for a, b in zip(ahead, back, strict=True))
    leaves, edges = [x, words, *layer.parameters()], relations(data)
    assert_same(layer(x, words, edges), theirs, leaves, what="topological")
    by_level = mpnn.schedule.by(data["character"].level)
    assert_same(layer(x, words, edges, schedule=by_level), theirs, leaves, what="by level")
    with mpnn.engine("reference"):
        assert_same(layer(x, words, edges), theirs, leaves, what="one by one")
        assert_same(layer.word_weights(x, words, edges), (alpha, alpha_back), leaves, what="weights one by one")
    plan = mpnn.plan(joined(edges, n, len(spans)), "topological", n)
    assert_same(layer(x, words, plan), theirs, leaves, what="plan")
    assert_same(layer.word_weights(x, words, edges), (alpha, alpha_back), leaves, what="weights of words")
    assert_same(layer.word_weights(x, words, plan), (alpha, alpha_back), leaves, what="weights of words on a plan")


def test_in_one_direction_the_states_are_those_of_that_direction():
    data, both = lattice(*SENTENCES["nested"]), randomised(LatticeLSTM(3, 4, 5, bidirectional=True))
    one = LatticeLSTM(3, 4, 5).double()
    one.load_state_dict({name: w for name, w in both.state_dict().items() if not name.startswith("reverse")})
    x, words = inputs(data)
    assert_same(one(x, words, relations(data))[0], both(x, words, relations(data))[0][:, :4], [x, words])
    assert len(one.word_weights(x, words, relations(data))) == 1


@pytest.mark.parametrize("forget", ["own", "coupled"])
def test_without_words_it_is_the_lstm(forget):
    data, layer = lattice("abcdefg", []), randomised(LatticeLSTM(3, 4, forget=forget, bidirectional=True))
    theirs = LSTM(3, 4, bidirectional=True, forget=forget).double()
    with torch.no_grad():
        for mine, way in ((layer, ""), (layer.reverse, "_reverse")):
            for ours, name in ((mine.weight_ih, "weight_ih"), (mine.weight_hh, "weight_hh"), (mine.bias, "bias_ih")):
                i, *others = ours.chunk(4 if forget == "own" else 3)
                first = i if forget == "own" else -i  # LSTM learns f, and i = 1 - f
                getattr(theirs, f"{name}_l0{way}").copy_(torch.cat([first, *others]))
            torch.nn.init.zeros_(getattr(theirs, f"bias_hh_l0{way}"))
    x, words = inputs(data, 3)
    edges = relations(data)
    assert_same(layer(x, words, edges), theirs(x, edges["next"], cells=True), [x], what="ours")
    if forget == "own":
        golden = torch.nn.LSTM(3, 4, bidirectional=True).double()
        golden.load_state_dict(theirs.state_dict())
        assert_same(layer(x, words, edges)[0], golden(x)[0], [x], what="torch's")


@pytest.mark.parametrize("rule", ["topological", "by level"])
def test_sentences_of_a_batch_are_as_they_are_alone(rule):
    layer = randomised(LatticeLSTM(3, 4, 5, bidirectional=True))
    alone = [lattice(*sentence) for sentence in SENTENCES.values()]
    batch = Batch.from_data_list(alone)
    rows = [inputs(data) for data in alone]
    x, words = (torch.cat(column) for column in zip(*rows, strict=True))
    schedule = "topological" if rule == "topological" else mpnn.schedule.by(batch["character"].level)
    together = layer(x, words, relations(batch), schedule=schedule)
    single = [layer(*inputs, relations(data)) for inputs, data in zip(rows, alone, strict=True)]
    leaves = [*layer.parameters(), *(leaf for pair in rows for leaf in pair)]
    assert_same(together, tuple(torch.cat(field) for field in zip(*single, strict=True)), leaves)


def test_words_add_no_levels():
    data = Batch.from_data_list([lattice(*SENTENCES[name]) for name in ("nested", "every two", "no word")])
    x, words = torch.ones(data["character"].num_nodes, 3), torch.ones(data["word"].num_nodes, 3)
    for rule in ("topological", mpnn.schedule.by(data["character"].level)):
        plan = LatticeLSTM(3, 4).laid_out(x, words, relations(data), rule)
        assert plan.num_levels == plan.reverse.num_levels == 8 and plan.node_counts[:5] == [3, 3, 3, 3, 2]


def test_where_a_word_ends_the_cell_before_is_not_read():
    layer, data = randomised(LatticeLSTM(3, 4, 5)), lattice("abc", ["bc"])
    with torch.no_grad():
        for weight in (layer.weight_hh, layer.word_weight_hh, layer.gate_weight_hh):
            weight.zero_()  # so that h tells nothing
    x, words = inputs(data)
    _, c = layer(x, words, relations(data))
    word, second = torch.autograd.grad(c[2].sum(), [words, x])
    assert word.abs().sum() > 0 and second[1].abs().sum() > 0  # c_b is in the word's cell
    longer = lattice("abc", ["abc"])
    _, c = layer(x, words, relations(longer))
    (grad,) = torch.autograd.grad(c[2].sum(), [x])
    assert grad[1].abs().sum() == 0 and grad[0].abs().sum() > 0


def test_the_order_of_edges_is_irrelevant():
    data, layer = lattice(*SENTENCES["nested"]), randomised(LatticeLSTM(3, 4, 5, bidirectional=True))
    x, words = inputs(data)
    edges = relations(data)
    other = {kind: pair[:, torch.randperm(pair.shape[1])] for kind, pair in edges.items()}
    leaves = [x, words, *layer.parameters()]
    assert_same(layer(x, words, other), layer(x, words, edges), leaves)
    assert_same(layer.word_weights(x, words, other), layer.word_weights(x, words, edges), leaves, what="weights")


def test_plans_are_kept_with_the_edges():
    data, layer = lattice(*SENTENCES["nested"]), LatticeLSTM(3, 4, 5, bidirectional=True)
    x, words = (rows.float() for rows in inputs(data))
    edges = relations(data)
    first, again = layer.laid_out(x, words, edges), layer.laid_out(x, words, relations(data))
    assert first is again and first.reverse is again.reverse


def test_a_word_without_one_beginning_and_one_end_is_refused():
    data, layer = lattice("abcd", ["ab", "abc"]), LatticeLSTM(3, 4)
    x, words, edges = torch.ones(4, 3), torch.ones(2, 3), relations(data)
    with pytest.raises(ValueError, match="word 1 has 0 'begins' edges"):
        layer(x, words, edges | {"begins": edges["begins"][:, :1]})
    with pytest.raises(ValueError, match="word 0 has 2 'ends' edges.*1 of 2 words"):
        layer(x, words, edges | {"ends": torch.cat([edges["ends"], edges["ends"][:, :1]], 1)})
    with pytest.raises(ValueError, match=r"edge type 'ends'.*edge 1 \(1 -> 7\)"):
        layer(x, words, edges | {"ends": torch.tensor([[0, 1], [1, 7]])})
    with pytest.raises(mpnn.schedule.CycleError, match="cycle"):
        layer(x, words, edges | {"ends": edges["begins"].flip(0)})


def test_wrong_widths_and_options_are_refused():
    data = lattice("abcd", ["ab", "abc"])
    layer, x, edges = LatticeLSTM(3, 4, 5), torch.ones(4, 3), relations(data)
    with pytest.raises(ValueError, match="words have 3 features.*expected 5.*word_features=3"):
        layer(x, torch.ones(2, 3), edges)
    with pytest.raises(ValueError, match="forget='none'.*'own' or 'coupled'"):
        LatticeLSTM(3, 4, forget="none")
    with pytest.raises(ValueError, match=r"'begins'.*was given the edge types \('next', 'ends'\)"):
        layer(x, torch.ones(2, 5), {kind: edges[kind] for kind in ("next", "ends")})
    with pytest.raises(ValueError, match="words has 3 rows, but the plan has 2 words"):
        layer(x, torch.ones(3, 5), mpnn.plan(joined(edges, 4, 2), "topological", 4))


def test_weights_of_words_and_of_the_character_add_up_to_less_than_one_and_more_than_none():
    data, layer = lattice(*SENTENCES["every two"]), randomised(LatticeLSTM(3, 4, 5))
    x, words = inputs(data)
    (alpha,) = layer.word_weights(x, words, relations(data))
    at_end = torch.zeros(len(x), 4, dtype=alpha.dtype).index_add(0, relations(data)["ends"][1], alpha)
    assert alpha.min() > 0 and at_end.max() < 1
    assert_close(at_end[0], torch.zeros(4, dtype=alpha.dtype), "where no word ends")
