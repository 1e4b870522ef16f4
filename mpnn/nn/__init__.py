"""Layers: each is a configuration of the one engine."""

from mpnn.nn.gat import GAT, GATv2
from mpnn.nn.gcn import GCN
from mpnn.nn.sage import GraphSAGE

__all__ = ["GAT", "GCN", "GATv2", "GraphSAGE"]
