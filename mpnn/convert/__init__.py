r"""Graph in, graph out: networkx to torch_geometric and back, with the user's own node ids.

:func:`from_networkx` gives a ``Data``, or a ``HeteroData`` where nodes or edges have types; :func:`to_networkx` goes
the way back; :func:`node_ids` and :func:`node_positions` translate between ids and positions. What the way back needs
travels with the data in fields that survive batching, ``.to()`` and slicing:

================ ================ =============================================================================
field            shape            is
================ ================ =============================================================================
``node_number``  ``(N,)`` int64   the place of a node in the networkx graph
``edge_number``  ``(E,)`` int64   the place of an edge there, equal for the two directions of one undirected edge;
                                  only for undirected graphs and multigraphs
``networkx``     :class:`Origin`  the ids, the edge keys, and which attributes the fields came from
================ ================ =============================================================================

Example:
    >>> import networkx as nx
    >>> graph = nx.Graph()
    >>> graph.add_edge("Ann", "Bob", since=1990)
    >>> data = from_networkx(graph, edge_attr="since")
    >>> data.edge_index
    tensor([[0, 1],
            [1, 0]])
    >>> node_ids(data), node_positions(data)["Bob"]
    (['Ann', 'Bob'], 1)
    >>> to_networkx(data).edges(data=True)
    EdgeDataView([('Ann', 'Bob', {'since': 1990})])
"""

from __future__ import annotations

from mpnn.convert.inward import from_networkx
from mpnn.convert.origin import Origin, node_ids, node_positions
from mpnn.convert.outward import to_networkx

__all__ = ["Origin", "from_networkx", "node_ids", "node_positions", "to_networkx"]
