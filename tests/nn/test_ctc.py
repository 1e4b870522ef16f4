from itertools import product

import pytest
import torch
import torch.nn.functional as F
from compare import assert_same
from test_heads import batch_of, chains
from torch import nn
from torch_geometric.data import Batch

import mpnn
from mpnn.graphs import chain
from mpnn.nn import GRU, Tagger, ctc_decode, ctc_loss

LENGTHS, LABELS = (6, 3, 8), (2, 1, 4)
C = 4


def case():
    torch.manual_seed(1)
    scores = torch.randn(sum(LENGTHS), C, dtype=torch.float64, requires_grad=True)
    return scores, torch.randint(1, C, (sum(LABELS),))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("blank", [0, 2])
def test_it_is_torchs_on_padded_sequences(reduction, blank):
    scores, target = case()
    target = torch.where(target == blank, 0, target)
    padded = nn.utils.rnn.pad_sequence(scores.split(LENGTHS)).log_softmax(-1)
    labels = nn.utils.rnn.pad_sequence(target.split(LABELS), batch_first=True)
    theirs = F.ctc_loss(padded, labels, LENGTHS, LABELS, blank, reduction)
    ours = ctc_loss(
        scores, chains(*LENGTHS), target, batch_of(*LENGTHS), batch_of(*LABELS), blank=blank, reduction=reduction
    )
    assert_same(ours, theirs, [scores])


def test_it_is_the_sum_over_all_paths():
    scores, target = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.tensor([1, 2])
    log_probs, total = scores.log_softmax(-1), 0.0
    for path in product(range(3), repeat=4):
        labels = [c for k, c in enumerate(path) if c and (k == 0 or path[k - 1] != c)]
        if labels == [1, 2]:
            total = total + sum(log_probs[t, c] for t, c in enumerate(path)).exp()
    assert_same(ctc_loss(scores, chains(4), target, reduction="sum"), -total.log(), [scores])


def test_the_order_of_nodes_and_of_chains_in_the_batch_is_the_edges_to_say():
    scores, target = case()
    new = torch.randperm(len(scores))
    moved = torch.empty_like(scores).index_copy(0, new, scores)
    batch = torch.empty_like(new).index_copy(0, new, batch_of(*LENGTHS))
    edge_index, there = chains(*LENGTHS), (target, batch_of(*LENGTHS), batch_of(*LABELS))
    ours = ctc_loss(moved, new[edge_index], target, batch, batch_of(*LABELS), reduction="none")
    assert_same(ours, ctc_loss(scores, edge_index, *there, reduction="none"), [scores])
    assert [row.tolist() for row in ctc_decode(moved, new[edge_index], batch)] == [
        row.tolist() for row in ctc_decode(scores, edge_index, batch_of(*LENGTHS))
    ]


def test_labels_of_a_batch_come_with_their_own_batch_vector():
    scores, target = case()
    data = [chain(n) for n in LENGTHS]
    for graph, labels in zip(data, target.split(LABELS), strict=True):
        graph.label = labels
    batch = Batch.from_data_list(data, follow_batch=["label"])
    ours = ctc_loss(scores, batch.edge_index, batch.label, batch.batch, batch.label_batch, reduction="none")
    alone = [
        ctc_loss(s, g.edge_index, g.label, reduction="sum") for s, g in zip(scores.split(LENGTHS), data, strict=True)
    ]
    assert_same(ours, torch.stack(alone), [scores])


def test_a_sequence_too_short_for_its_labels_is_impossible():
    scores = torch.randn(2, C)
    assert ctc_loss(scores, chains(2), torch.tensor([1, 1]), reduction="sum").isinf()
    assert ctc_loss(scores, chains(2), torch.tensor([1, 1]), reduction="sum", zero_infinity=True) == 0


def test_what_is_no_chain_is_refused():
    scores, target = torch.randn(4, C), torch.tensor([1])
    with pytest.raises(ValueError, match="ctc_loss: graph 1 has several nodes at place 0"):
        ctc_loss(scores, torch.tensor([[1, 2], [3, 3]]), target, torch.tensor([0, 1, 1, 1]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"ctc_decode: graph 0 has several nodes at place 0.*Pass batch="):
        ctc_decode(scores, chains(2, 2))
    with pytest.raises(mpnn.schedule.CycleError):
        ctc_loss(scores, torch.tensor([[0, 1], [1, 0]]), target)


def test_the_best_path_drops_repetitions_then_blanks():
    tags = torch.tensor([0, 1, 1, 0, 1, 2, 2, 3, 3, 0, 0, 0])
    scores = F.one_hot(tags, C).double()
    found = ctc_decode(scores, chains(6, 3, 3), batch_of(6, 3, 3), num_graphs=4)
    assert [row.tolist() for row in found] == [[1, 1, 2], [2, 3], [], []]
    assert ctc_decode(scores[:3], chains(3), blank=1)[0].tolist() == [0]


def test_the_loss_finds_labels_that_have_no_time():
    torch.manual_seed(0)
    label = torch.randint(1, C, (20, 3))
    x = F.one_hot(label, C).double().repeat_interleave(3, 1).flatten(0, 1)  # each label for three steps
    edge_index, batch, target_batch = chains(*[9] * 20), batch_of(*[9] * 20), batch_of(*[3] * 20)
    model = Tagger(GRU(C, 16, bidirectional=True), nn.Linear(32, C)).double()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(80):
        loss = ctc_loss(model(x, edge_index), edge_index, label.flatten(), batch, target_batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = ctc_decode(model(x, edge_index), edge_index, batch)
    right = sum(row.tolist() == labels.tolist() for row, labels in zip(found, label, strict=True))
    assert right > 15


def test_labels_of_several_chains_say_whose_they_are():
    scores, edges, batch = torch.zeros(6, C), chains(3, 3), batch_of(3, 3)
    with pytest.raises(ValueError, match="ctc_loss: there are 2 chains, but target_batch is None; .* the 2 labels"):
        ctc_loss(scores, edges, torch.tensor([1, 2]), batch)
    for wrong in ([1, 0], [0], [0, 0, 1]):
        with pytest.raises(ValueError, match=r"ctc_loss: target_batch has shape .* in the shape of target, \(2,\)"):
            ctc_loss(scores, edges, torch.tensor([1, 2]), batch, torch.tensor(wrong))
    one = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match=r"ctc_loss: batch has shape \(1,\); expected .* each of the 6 nodes"):
        ctc_loss(scores, edges, torch.tensor([1, 2]), one, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"ctc_decode: batch has shape \(1,\); expected .* each of the 6 nodes"):
        ctc_decode(scores, edges, one)


def test_chains_without_labels_need_no_chain_of_each():
    none = torch.empty(0, dtype=torch.long)
    loss = ctc_loss(torch.zeros(6, C), chains(3, 3), none, batch_of(3, 3), reduction="sum")
    torch.testing.assert_close(loss, torch.tensor(6 * float(torch.tensor(C).log())))
