"""Layers: each is a configuration of the one engine."""

from mpnn.nn.agc_lstm import AGCLSTM, AGCLSTMNetwork, TwoStreamAGCLSTM, agc_lstm_loss
from mpnn.nn.aggr import LSTMAggregation
from mpnn.nn.chebyshev import Chebyshev
from mpnn.nn.crf import CRF, forbidden_transitions
from mpnn.nn.ctc import ctc_decode, ctc_loss
from mpnn.nn.diagonal import DiagonalRNN
from mpnn.nn.diffusion import Diffusion
from mpnn.nn.encoder_decoder import BahdanauAttention, EncoderDecoder, LuongAttention, across, sequence_pair
from mpnn.nn.gat import GAT, GATv2
from mpnn.nn.gcn import GCN
from mpnn.nn.gin import GIN
from mpnn.nn.graph_lstm import GraphLSTM, ResidualGraphLSTM
from mpnn.nn.graph_network import GraphNetwork
from mpnn.nn.graph_recurrent import GraphRecurrent
from mpnn.nn.grid_lstm import GridLSTM
from mpnn.nn.gru import GRU
from mpnn.nn.han import HAN, SemanticAttention
from mpnn.nn.heads import LanguageModel, SequenceClassifier, Tagger, last_state
from mpnn.nn.hierarchical import ContextAttention, HierarchicalAttention
from mpnn.nn.highway import Highway
from mpnn.nn.jordan import Jordan
from mpnn.nn.lattice_lstm import LatticeLSTM
from mpnn.nn.lstm import LSTM
from mpnn.nn.mean import MeanNetwork
from mpnn.nn.narx import AR, NARX
from mpnn.nn.part_lstm import PartAwareLSTM
from mpnn.nn.readout import EdgeReadout, GraphReadout, attention
from mpnn.nn.recursive import RecNN
from mpnn.nn.relations import RelationWise
from mpnn.nn.rnn import RNN
from mpnn.nn.sage import GraphSAGE
from mpnn.nn.tdnn import TDNN, Window
from mpnn.nn.thread_lstm import GraphStructuredLSTM
from mpnn.nn.tree_lstm import ChildSumTreeLSTM, NaryTreeLSTM, TreeGRU

__all__ = [
    "AGCLSTM",
    "AGCLSTMNetwork",
    "AR",
    "BahdanauAttention",
    "CRF",
    "Chebyshev",
    "ChildSumTreeLSTM",
    "ContextAttention",
    "DiagonalRNN",
    "Diffusion",
    "EdgeReadout",
    "EncoderDecoder",
    "GAT",
    "GCN",
    "GIN",
    "GATv2",
    "GraphLSTM",
    "GraphNetwork",
    "GraphReadout",
    "GraphRecurrent",
    "GRU",
    "GridLSTM",
    "GraphSAGE",
    "GraphStructuredLSTM",
    "HAN",
    "HierarchicalAttention",
    "Highway",
    "Jordan",
    "LSTM",
    "LSTMAggregation",
    "LanguageModel",
    "LatticeLSTM",
    "LuongAttention",
    "MeanNetwork",
    "NARX",
    "NaryTreeLSTM",
    "PartAwareLSTM",
    "RNN",
    "RecNN",
    "RelationWise",
    "ResidualGraphLSTM",
    "SemanticAttention",
    "SequenceClassifier",
    "Tagger",
    "TDNN",
    "TreeGRU",
    "TwoStreamAGCLSTM",
    "Window",
    "across",
    "agc_lstm_loss",
    "attention",
    "ctc_decode",
    "ctc_loss",
    "last_state",
    "sequence_pair",
    "forbidden_transitions",
]
