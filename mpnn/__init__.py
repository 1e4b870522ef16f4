"""Message passing on any graph under any schedule: a graph, a cell, an order."""

from mpnn import (
    datasets,
    decode,
    diagnostics,
    documents,
    features,
    graphs,
    hetero,
    images,
    lattice,
    loader,
    nn,
    products,
    schedule,
    spacetime,
    train,
)
from mpnn.containers import apply
from mpnn.convert import from_networkx, node_ids, node_positions, to_networkx
from mpnn.draw import draw
from mpnn.engine import engine, rowwise
from mpnn.explain import explain
from mpnn.message_passing import MessagePassing
from mpnn.plan import Plan, plan
from mpnn.typed import HeteroMessagePassing

__all__ = [
    "HeteroMessagePassing",
    "MessagePassing",
    "Plan",
    "apply",
    "datasets",
    "decode",
    "diagnostics",
    "documents",
    "draw",
    "engine",
    "explain",
    "features",
    "from_networkx",
    "graphs",
    "hetero",
    "images",
    "lattice",
    "loader",
    "nn",
    "node_ids",
    "node_positions",
    "plan",
    "products",
    "rowwise",
    "schedule",
    "spacetime",
    "to_networkx",
    "train",
]
__version__ = "0.1.0"
