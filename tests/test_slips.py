"""What is easily passed in the place of something else, and what it is told."""

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.data import Data

import mpnn
from mpnn.nn import GCN, LSTM

X, EDGES = torch.ones(3, 4), torch.tensor([[0, 1], [1, 2]])
DATA = Data(x=X, edge_index=EDGES)
HEAD = nn.Linear(8, 2)

SLIPS = {
    "the class to apply": (lambda: mpnn.apply(GCN, DATA), r"apply: layer is the class GCN; expected .* GCN\(\.\.\.\)"),
    "the class to explain": (lambda: mpnn.explain(DATA, GCN), r"explain: model is the class GCN; expected"),
    "the class in a classifier": (
        lambda: mpnn.nn.SequenceClassifier(LSTM, HEAD), r"SequenceClassifier: layer is the class LSTM; .* as nn.Linear"
    ),
    "a number for a head": (lambda: mpnn.nn.SequenceClassifier(LSTM(4, 8), 3), "SequenceClassifier: f is 3;"),
    "the class in a tagger": (lambda: mpnn.nn.Tagger(LSTM, HEAD), "Tagger: layer is the class LSTM"),
    "tags in the place of a head": (lambda: mpnn.nn.Tagger(LSTM(4, 8), 3), "Tagger: f is 3;"),
    "words in the place of an embedding": (
        lambda: mpnn.nn.LanguageModel(20, LSTM(4, 8), HEAD), "LanguageModel: embedding is 20;"
    ),
    "the class for a relation": (
        lambda: mpnn.nn.RelationWise({("a", "to", "a"): GCN}), r"RelationWise \(.*\): layer is the class GCN"
    ),
    "widths in a graph network": (lambda: mpnn.nn.GraphNetwork(4, 4), "GraphNetwork: edge is 4;"),
    "a width to read edges": (lambda: mpnn.nn.EdgeReadout(4), "EdgeReadout: f is 4;"),
    "a class to read graphs": (lambda: mpnn.nn.GraphReadout("sum", nn.ReLU), "GraphReadout: f is the class ReLU;"),
    "a layer that is made": (
        lambda: mpnn.nn.GraphRecurrent(GCN(1, 8), "gru", 1, 8), r"GraphRecurrent: conv is GCN\(1, 8\); .* mpnn.nn.GCN"
    ),
    "a layer that is made, of AGC-LSTM": (lambda: mpnn.nn.AGCLSTM(4, 8, GCN(4, 8)), r"AGCLSTM: conv is GCN\(4, 8\)"),
    "a width for a layer": (lambda: mpnn.nn.GraphRecurrent(1), "GraphRecurrent: conv is 1; expected what makes"),
    "edges in a list": (lambda: GCN(4, 2)(X, [[0], [1]]), r"a list holds no edge_index; .*torch.as_tensor"),
    "edges of numpy": (lambda: GCN(4, 2)(X, np.zeros((2, 0))), r"a ndarray holds no edge_index; .*torch.as_tensor"),
    "edges to be named": (lambda: mpnn.node_ids(EDGES), "node_ids: data is a Tensor; expected a Data or HeteroData"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_told_what_was_expected(slip):
    with pytest.raises(TypeError, match=SLIPS[slip][1]):
        SLIPS[slip][0]()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LSTM(-1, 8), r"LSTM: in_features=-1; expected a whole number, 0 or more. .*x.shape\[1\]"),
        (lambda: mpnn.nn.GRU(4, 8.0), "GRU: hidden_features=8.0; expected a whole number, 1 or more.$"),
        (lambda: mpnn.nn.RNN(4, 8, num_layers=0), "RNN: num_layers=0; expected a whole number, 1 or more"),
        (lambda: LSTM(4, 8, dropout=2), "LSTM: dropout=2; expected a probability, 0 to 1"),
        (lambda: mpnn.nn.ChildSumTreeLSTM((4, 2), 8), r"ChildSumTreeLSTM: in_features=\(4, 2\); expected a"),
        (lambda: mpnn.nn.TreeGRU(4, 0), "TreeGRU: hidden_features=0; expected a whole number, 1 or more"),
        (lambda: mpnn.nn.GAT(4, 8, heads=0), "GAT: heads=0; expected a whole number, 1 or more"),
    ],
)
def test_sizes_that_are_none_are_named_where_the_layer_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_sizes_may_be_any_whole_number_and_inputs_none():
    layer = mpnn.nn.GRU(np.int64(0), np.int32(2), num_layers=np.int64(2))
    assert layer(torch.ones(3, 0), EDGES).shape == (3, 2)


def test_functions_are_as_good_as_modules():
    first = lambda h: h[:, :2]  # noqa: E731
    assert mpnn.nn.Tagger(LSTM(4, 8), first)(X, EDGES).shape == (3, 2)
    assert mpnn.nn.EdgeReadout(lambda j, i: (j * i).sum(1))(X, EDGES).tolist() == [4, 4]
    assert mpnn.nn.GraphReadout("sum", first)(X).shape == (1, 2)
