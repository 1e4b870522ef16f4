"""Parts of a model that do not fit together, and what does not fit a model: the error names the part, in any layer."""

import pytest
import torch
from torch import nn

import mpnn
from mpnn.nn import (
    CRF,
    GRU,
    HAN,
    LSTM,
    BahdanauAttention,
    EdgeReadout,
    EncoderDecoder,
    GraphReadout,
    LanguageModel,
    LuongAttention,
    SemanticAttention,
    SequenceClassifier,
    Tagger,
    attention,
    last_state,
    sequence_pair,
)  # fmt: skip

X, EDGES, BATCH = torch.ones(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.tensor([0, 0, 1, 1])
ACROSS, PAIR, PATH = torch.tensor([[0, 1, 4], [0, 0, 1]]), sequence_pair([3, 4, 5], [5, 4, 3], 1, 2), ("p", "a", "p")
TOKENS = torch.tensor([1, 2, 3, 4])


def translator(source=4, vocabulary=9, target=4, f=8, attend=(8, 8), bahdanau=None):
    source, target = nn.Embedding(vocabulary, source), nn.Embedding(9, target)
    seen = BahdanauAttention(*bahdanau) if bahdanau else LuongAttention(*attend)
    decoder = LSTM(12 if bahdanau else 4, 8)
    return EncoderDecoder(source, LSTM(4, 8), target, decoder, nn.Linear(f, 9), seen)


def language(f=8, vocabulary=9):
    return LanguageModel(nn.Embedding(vocabulary, 4), LSTM(4, 8), nn.Linear(f, 9))


PARTS = {  # an error of torch's own, with a note
    "EdgeReadout.f": lambda: EdgeReadout(nn.Bilinear(5, 5, 1))(X, EDGES),
    "GraphReadout.f": lambda: GraphReadout("mean", nn.Linear(5, 2))(X, BATCH),
    "GraphReadout.aggr": lambda: GraphReadout(attention(5))(X, BATCH),
    "SequenceClassifier.f": lambda: SequenceClassifier(GRU(3, 8, bidirectional=True), nn.Linear(8, 2))(X, EDGES),
    "SequenceClassifier.f ": lambda: SequenceClassifier(GRU(3, 8), nn.Linear(7, 2), "mean")(X, EDGES),
    "Tagger.f": lambda: Tagger(LSTM(3, 8, bidirectional=True), nn.Linear(8, 5))(X, EDGES),
    "LanguageModel.f": lambda: language(f=7)(TOKENS, EDGES),
    "LanguageModel.f ": lambda: language(f=7).scores(TOKENS, EDGES),
    "LanguageModel.embedding": lambda: language(vocabulary=4)(TOKENS, EDGES),
    "LanguageModel.embedding ": lambda: language().scores(TOKENS.float(), EDGES),
    "EncoderDecoder.source": lambda: translator(vocabulary=4)(PAIR),
    "EncoderDecoder.f": lambda: translator(f=7)(PAIR),
    "EncoderDecoder.f ": lambda: translator(bahdanau=(8, 8, 5))(PAIR),
    "EncoderDecoder.target": lambda: mpnn.decode.greedy(*translator().begin(PAIR), 99, end=2, max_length=3),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_does_not_fit_what_it_is_given_is_named(part):
    with pytest.raises((RuntimeError, IndexError)) as found:
        PARTS[part]()
    (note,) = (note for note in found.value.__notes__ if " was given " in note)
    assert note.startswith(f"{part.strip()} was given shape (") and f"Make {part.strip().split('.')[1]} as wide" in note


HA, BA = LuongAttention(3, 4), BahdanauAttention(3, 4, 5)
WORDS = {
    "edges that leave the graph": (
        lambda: EdgeReadout(nn.Bilinear(3, 3, 1))(X, torch.tensor([[0], [9]])),
        r"EdgeReadout: edge 0 \(0 -> 9\) leaves the graph, which has num_nodes=4",
    ),
    "edges turned": (lambda: EdgeReadout(nn.Bilinear(3, 3, 1))(X, EDGES.t()), r"It looks transposed: .* edge_index.t"),
    "edges in a list": (lambda: EdgeReadout(nn.Bilinear(3, 3, 1))(X, [[0], [1]]), "EdgeReadout: edge_index is a list"),
    "a graph too many": (
        lambda: GraphReadout("sum")(X, torch.tensor([0, 0, 7, 7]), 2),
        r"GraphReadout: node 2 is in graph 7; expected .* num_graphs=2. 2 of 4 nodes are outside",
    ),
    "a graph below 0": (
        lambda: GraphReadout("sum")(X, torch.tensor([0, 0, 0, -1])), "GraphReadout: node 3 is in graph -1; expected",
    ),
    "no graphs": (lambda: GraphReadout("sum")(X, BATCH.float()), r"GraphReadout: batch has dtype torch.float32"),
    "half of a column": (lambda: last_state(X, EDGES, bidirectional=True), "last_state: h has 3 columns; expected an"),
    "values of another width": (
        lambda: SemanticAttention(3)([X, X[:, :2]]), "SemanticAttention: x has 2 features a node, .* expected 3",
    ),
    "values of other nodes": (
        lambda: SemanticAttention(3)([X, X[:3]]), "SemanticAttention: the values have 4, 3 rows; expected",
    ),
    "no values": (lambda: SemanticAttention(3)([]), "SemanticAttention: the values have no rows; expected"),
    "one field of two": (
        lambda: language()(TOKENS, EDGES, (torch.zeros(1, 1, 8),)), "LanguageModel: state is 1 values; .* each of h, c",
    ),
    "a state alone": (
        lambda: language()(TOKENS, EDGES, torch.zeros(2, 1, 8)), "LanguageModel: state is a tensor; expected",
    ),
    "narrow memory": (
        lambda: HA(X[:, :2], torch.ones(2, 4), ACROSS),
        r"LuongAttention: memory has shape \(4, 2\); expected \(N, 3\), a row a node. .* with in_features=2",
    ),
    "narrow targets": (
        lambda: HA(X, torch.ones(2, 3), ACROSS), r"LuongAttention: h has shape \(2, 3\); .* with query_features=3",
    ),
    "narrow memory of Bahdanau": (
        lambda: BA(X[:, :2], torch.ones(2, 4), ACROSS), r"BahdanauAttention: memory has shape \(4, 2\); expected",
    ),
    "narrow queries": (
        lambda: BA(X, torch.ones(2, 3), ACROSS), r"BahdanauAttention: s has shape \(2, 3\); expected \(N, 4\)",
    ),
    "narrow keys": (
        lambda: BA(X, torch.ones(2, 4), ACROSS, torch.ones(4, 4)),
        r"BahdanauAttention: keys has shape \(4, 4\); expected \(N, 5\), .* hidden_features=4",
    ),
    "a graph of one side": (
        lambda: translator()(mpnn.graphs.chain(3)), "EncoderDecoder: the graph is Data.*expected HeteroData",
    ),
    "tags in a list": (lambda: CRF(3).loss(X, [0, 0, 0, 0], EDGES), "CRF: tags are a list; expected"),
    "tags with fractions": (lambda: CRF(3).loss(X, torch.zeros(4), EDGES), "CRF: tags are torch.float32; expected"),
    "a mask in a list": (lambda: CRF(3, [[0] * 4] * 4), r"CRF: forbidden is a list; expected \(4, 4\)"),
    "a type without width": (
        lambda: HAN({"q": 5}, 2, [PATH]), "HAN: in_features has no width of 'p', .* only of 'q'; .* Add 'p': width",
    ),
    "x of no type": (lambda: HAN(3, 2, [PATH])(X, {PATH: EDGES}), r"HAN: x is shape \(4, 3\); expected {node type"),
    "a batch of another type": (
        lambda: HAN(3, 2, [PATH])({"p": X}, {PATH: EDGES}, {"q": BATCH}), "HAN: batch is of 'q'; expected {node type",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_what_does_not_fit_a_layer_is_told_in_words(name):
    run, words = WORDS[name]
    with pytest.raises((TypeError, ValueError), match=words):
        run()
