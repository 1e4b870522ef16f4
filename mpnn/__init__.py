"""Message passing on any graph under any schedule: a graph, a cell, an order."""

from mpnn import datasets, nn, schedule
from mpnn.containers import apply
from mpnn.draw import draw
from mpnn.engine import engine
from mpnn.message_passing import MessagePassing
from mpnn.plan import Plan, plan

__all__ = ["MessagePassing", "Plan", "apply", "datasets", "draw", "engine", "nn", "plan", "schedule"]
__version__ = "0.1.0"
