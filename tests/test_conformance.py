"""What every layer must do, in one table: a new layer is one more row.

A layer is called by the names in its ``forward``: ``x``, ``edge_index``, ``batch``, ``num_graphs``, ``schedule``, and
those of its row's ``takes``. Wrong formulas are not found here, where layers are compared with themselves, but by the
tests of each layer.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from compare import assert_close, assert_same, gradients, tuple_of
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch_geometric.data import Batch, Data
from zoo import graphs

import mpnn
from mpnn.features import Linear
from mpnn.nn import (
    AGCLSTM,
    AR,
    CRF,
    GAT,
    GCN,
    GIN,
    GRU,
    HAN,
    LSTM,
    NARX,
    RNN,
    TDNN,
    BahdanauAttention,
    Chebyshev,
    ChildSumTreeLSTM,
    ContextAttention,
    DiagonalRNN,
    Diffusion,
    EdgeReadout,
    GATv2,
    GraphLSTM,
    GraphNetwork,
    GraphReadout,
    GraphRecurrent,
    GraphSAGE,
    GraphStructuredLSTM,
    GridLSTM,
    HierarchicalAttention,
    Highway,
    Jordan,
    LatticeLSTM,
    LuongAttention,
    MeanNetwork,
    NaryTreeLSTM,
    PartAwareLSTM,
    RecNN,
    RelationWise,
    ResidualGraphLSTM,
    SemanticAttention,
    SequenceClassifier,
    Tagger,
    TreeGRU,
    Window,
    attention,
)
from mpnn.nn.agc_lstm import Change

IN = 3  # node features
EXTRA = {  # the other inputs there are, for a graph
    "edge_weight": lambda data: torch.rand(data.num_edges).add(0.1),
    "edge_attr": lambda data: torch.randn(data.num_edges, 2),
    "u": lambda data: torch.randn(1, 2),
}
SCHEDULES = {  # (the schedule for a graph, the graphs that allow it)
    "synchronous": (lambda data: "synchronous", ()),
    "topological": (lambda data: "topological", ("dag",)),
    "reversed": (lambda data: mpnn.schedule.topological.reverse, ("dag",)),
    "ordered": (lambda data: mpnn.schedule.ordered(data.priority), ()),
    "by": (lambda data: mpnn.schedule.by(data.time), ()),
}


@dataclass(frozen=True)
class Row:
    """A layer and what is true of it.

    Attributes:
        make: makes it, for 3 node features, and 2 edge and 2 graph features if it takes such.
        takes: the names of other inputs it is given.
        gives: what its results are rows of: "node", "edge", "graph".
        schedules: those it runs under.
        ways: how the engine can run it; none if it does not run on the engine.
        symmetric: whether the order of edges is irrelevant.
        sparse: whether x may be sparse.
        compiles: whether it can be compiled as a whole, for graphs of any size.
    """

    name: str
    make: Callable[[], nn.Module]
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ("node",)
    schedules: tuple[str, ...] = ("synchronous",)
    ways: tuple[str, ...] = ("reference", "wavefront", "spmm")
    symmetric: bool = True
    sparse: bool = False
    compiles: bool = True


class Recurrent(mpnn.MessagePassing):
    """A stand-in for layers with a state, so that the table itself is tested under every schedule."""

    state = ("h",)

    def __init__(self):
        super().__init__()
        self.hidden_features = 4
        self.input, self.forget = Linear(IN, 4), nn.Linear(4, 4)

    def forward(self, x, edge_index, edge_weight, *, schedule=None):
        return self.propagate(edge_index, schedule=schedule, z=self.input(x), edge_weight=edge_weight)

    def message(self, h_j, z_i, edge_weight):
        return torch.sigmoid(z_i + self.forget(h_j)) * (edge_weight[:, None] + h_j)

    def update(self, z, message):
        return torch.tanh(z + message)


class Hidden(LSTM):
    """An LSTM of which h alone is looked at, so that torch's kernel may run."""

    def forward(self, x, edge_index, *, schedule=None):
        return super().forward(x, edge_index, schedule=schedule)[0]


class Cells(LSTM):
    """An LSTM of which c is asked for too."""

    def forward(self, x, edge_index, *, schedule=None):
        return super().forward(x, edge_index, schedule=schedule, cells=True)


class Positioned:
    """A layer whose children have positions: those in which their edges stand, the first at 0, the others at 1."""

    def forward(self, x, edge_index, *, schedule=None):
        return super().forward(x, edge_index, place(edge_index, x.device), schedule=schedule)


def place(edge_index, device):
    """0 for the first of the edges into a node, 1 for the others."""
    pairs = (edge_index.given if isinstance(edge_index, mpnn.Plan) else edge_index).t().tolist()
    later = [any(i == other for _, other in pairs[:e]) for e, (_, i) in enumerate(pairs)]
    return torch.tensor(later, dtype=torch.long, device=device)


class PositionedRecNN(Positioned, RecNN):
    pass


class PositionedTreeLSTM(Positioned, NaryTreeLSTM):
    pass


class PositionedGridLSTM(Positioned, GridLSTM):
    pass


class DelayedWindow(Window):
    """Delays: 1 for the first of the edges into a node, 2 for the others."""

    def forward(self, x, edge_index):
        return super().forward(x, edge_index, 1 + place(edge_index, x.device))


class DelayedTDNN(DelayedWindow, TDNN):
    pass


class DelayedNARX(NARX):
    """Its outputs are known where the first feature is positive, and are that feature."""

    def forward(self, x, edge_index, *, schedule=None):
        y = x.to_dense()[:, :1]
        return super().forward(x, edge_index, 1 + place(edge_index, x.device), y, y[:, 0] > 0, schedule)


class DelayedAR(AR):
    def forward(self, x, edge_index, *, schedule=None):
        return super().forward(x, edge_index, 1 + place(edge_index, x.device), x.to_dense()[:, 0] > 0, schedule)


class AdditiveSelfAttention(BahdanauAttention):
    """The nodes of a graph look at each other, along its edges."""

    def forward(self, x, edge_index):
        return super().forward(x, x, edge_index)


class SelfAttention(LuongAttention):
    """The nodes of a graph look at each other, along its edges."""

    def forward(self, x, edge_index):
        return super().forward(x, x, edge_index)


class Threaded(GraphStructuredLSTM):
    """Threads in any graph: a node's parent is its first source that is not below it; siblings stand as their edges."""

    def forward(self, x, edge_index):
        pairs = (edge_index.given if isinstance(edge_index, mpnn.Plan) else edge_index).t().tolist()
        parent, siblings, last = {}, [], {}
        for j, i in pairs:
            above = [j]
            while above[-1] in parent:
                above.append(parent[above[-1]])
            if i not in parent and i not in above:
                parent[i] = j
                siblings += [(last[j], i)] if j in last else []
                last[j] = i
        edges = {"parent": [(j, i) for i, j in parent.items()], "sibling": siblings}
        as_tensor = {kind: torch.tensor(some, dtype=torch.long).reshape(-1, 2).t() for kind, some in edges.items()}
        return super().forward(x, {kind: some.to(x.device) for kind, some in as_tensor.items()})


class Confident(GraphLSTM):
    """The state from before the pass is made of the features."""

    def forward(self, x, edge_index, *, schedule=None):
        h = torch.tanh(x.to_dense()[:, [0, 1, 2, 0]])
        return super().forward(x, edge_index, h, 1 - h, schedule=schedule)


class ConfidentLayers(ResidualGraphLSTM):
    def forward(self, x, edge_index, *, schedule=None):
        h = torch.tanh(x.to_dense().flip(1))
        return super().forward(x, edge_index, schedule, h, 1 - h)


class Forested(CRF):
    """Forests in any graph: of a node's edges the first counts that closes no circle with those before it."""

    def forward(self, x, edge_index):
        pairs = (edge_index.given if isinstance(edge_index, mpnn.Plan) else edge_index).t().tolist()
        parent = {}
        for j, i in pairs:
            above = [i]
            while above[-1] in parent:
                above.append(parent[above[-1]])
            if j not in parent and j not in above:
                parent[j] = i
        edges = torch.tensor(list(parent.items()), dtype=torch.long).reshape(-1, 2).t()
        return super().forward(x, edges.to(x.device))


class Latticed(LatticeLSTM):
    """Characters in trees: of a node's edges the first counts that closes no circle with those before it. Each of these
    edges is a word as well, with the features of its source."""

    def forward(self, x, edge_index):
        pairs = (edge_index.given if isinstance(edge_index, mpnn.Plan) else edge_index).t().tolist()
        parent = {}
        for j, i in pairs:
            above = [i]
            while above[-1] in parent:
                above.append(parent[above[-1]])
            if j not in parent and j not in above:
                parent[j] = i
        edges = torch.tensor(list(parent.items()), dtype=torch.long).reshape(-1, 2).t().to(x.device)
        word = torch.arange(edges.shape[1], device=x.device)
        lattice = {"next": edges, "begins": torch.stack([edges[0], word]), "ends": torch.stack([word, edges[1]])}
        return super().forward(x, x.to_dense()[edges[0]], lattice)


class Typed:
    """All nodes are of one type, and the edges of two: as they are, and turned round."""

    def forward(self, x, edge_index, batch=None, num_graphs=None):
        pairs = edge_index.edge_index() if isinstance(edge_index, mpnn.Plan) else edge_index
        edges = {TYPES[0]: edge_index, TYPES[1]: pairs.flip(0)}
        return super().forward({"node": x}, edges, None if batch is None else {"node": batch}, num_graphs)["node"]


TYPES = ("node", "there", "node"), ("node", "back", "node")


class TypedHAN(Typed, HAN):
    pass


class TypedRelations(Typed, RelationWise):
    pass


class Nested(HierarchicalAttention):
    """Each level has the same graph, and in a node is what has an edge to it, and itself."""

    def forward(self, x, edge_index, *, schedule=None):
        on = edge_index
        if not isinstance(on, mpnn.Plan):
            on = mpnn.plan(edge_index, schedule or "topological", len(x))
        node = torch.arange(len(x), device=x.device)
        inside = torch.cat([on.given, torch.stack([node, node])], dim=1)
        edges = {(low, "next", low): on for low in self.levels[:-1]}
        edges |= {(low, "in", up): inside for low, up in zip(self.levels, self.levels[1:])}
        return super().forward({self.levels[0]: x}, edges, dict.fromkeys(self.levels, len(x)))[self.levels[-1]]


class InSpaceAndTime:
    """The levels are the times: edges to later levels lead on in time, those within a level are edges in space."""

    def forward(self, x, edge_index, batch=None, num_graphs=None, edge_weight=None, *, schedule=None):
        pairs = edge_index.edge_index() if isinstance(edge_index, mpnn.Plan) else edge_index
        planned = edge_index if isinstance(edge_index, mpnn.Plan) else mpnn.plan(edge_index, schedule, len(x))
        later = planned.level[pairs].diff(dim=0)[0]
        edges = {"space": pairs[:, later == 0], "time": pairs[:, later > 0]}
        given = {} if edge_weight is None else {"edge_weight": edge_weight[later == 0]}
        if isinstance(self, AGCLSTM):
            given |= {"batch": batch, "num_graphs": num_graphs}
        return super().forward(x, edges, schedule=planned.level, **given)


class SpaceTimeRecurrent(InSpaceAndTime, GraphRecurrent):
    pass


class SpaceTimeAGC(InSpaceAndTime, AGCLSTM):
    pass


class HiddenParts(PartAwareLSTM):
    def forward(self, x, edge_index, *, schedule=None):
        return super().forward(x, edge_index, schedule=schedule)[0]


NO_SPMM = ("reference", "wavefront")
ATTENTION = ("reference", "wavefront", "spmm", "small")
IN_FRAMES = {"schedules": ("synchronous", "by"), "ways": NO_SPMM, "compiles": False}
ON_CHAINS = {"schedules": tuple(SCHEDULES), "ways": NO_SPMM, "compiles": False}  # topological unless told otherwise


def mlp(in_features: int, out_features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, 4), nn.Tanh(), nn.Linear(4, out_features))


TABLE = [
    Row("GCN", lambda: GCN(IN, 2), sparse=True),
    Row("GCN with weights", lambda: GCN(IN, 5), takes=("edge_weight",), sparse=True),
    Row("GCN without loops", lambda: GCN(IN, 2, self_loops=False), takes=("edge_weight",), sparse=True),
    Row("GAT", lambda: GAT(IN, 2, heads=2), sparse=True, ways=ATTENTION),
    Row(
        "GAT, heads averaged",
        lambda: GAT(IN, 2, heads=2, concat=False, self_loops=False),
        sparse=True,
        ways=ATTENTION,
    ),
    Row("GATv2", lambda: GATv2(IN, 2, heads=2), sparse=True, ways=ATTENTION),
    Row("GATv2, no loops", lambda: GATv2(IN, 2, heads=2, self_loops=False), sparse=True, ways=ATTENTION),
    Row("GraphSAGE, mean", lambda: GraphSAGE(IN, 2), sparse=True),
    Row("GraphSAGE, wider", lambda: GraphSAGE(IN, 5), sparse=True),
    Row("GraphSAGE, sum", lambda: GraphSAGE(IN, 2, "sum"), sparse=True),
    Row("GraphSAGE, max", lambda: GraphSAGE(IN, 2, "max"), ways=NO_SPMM),
    Row("GraphSAGE, LSTM", lambda: GraphSAGE(IN, 2, "lstm"), ways=NO_SPMM, symmetric=False, compiles=False),
    Row("GIN", lambda: GIN(mlp(IN, 2), train_eps=True), sparse=True),
    Row("GIN, narrower", lambda: GIN(nn.Sequential(nn.Linear(IN, 2), nn.Tanh()), train_eps=True), sparse=True),
    Row("MeanNetwork", lambda: MeanNetwork(IN, 2, torch.tanh), sparse=True),
    Row("Chebyshev", lambda: Chebyshev(IN, 2, terms=4), sparse=True),
    Row("Diffusion", lambda: Diffusion(IN, 2), takes=("edge_weight",)),
    Row("Diffusion, one step", lambda: Diffusion(IN, 5, steps=1)),
    Row("Chebyshev, wider", lambda: Chebyshev(IN, 5, terms=3), takes=("edge_weight",), sparse=True),
    Row(
        "GraphNetwork",
        lambda: GraphNetwork(mlp(2 + IN + IN + 2, 4), mlp(4 + IN + 2, 5), mlp(4 + 5 + 2, 6)),
        takes=("edge_attr", "u"),
        gives=("node", "edge", "graph"),
        ways=NO_SPMM,
    ),
    Row(
        "GraphNetwork, without values",
        lambda: GraphNetwork(mlp(IN + IN, 4), mlp(4 + IN, 5), mlp(4 + 5, 6), aggr="mean", readout="max"),
        gives=("node", "edge", "graph"),
        ways=NO_SPMM,
    ),
    Row("EdgeReadout", lambda: EdgeReadout(nn.Bilinear(IN, IN, 2)), gives=("edge",), ways=()),
    Row("GraphReadout", lambda: GraphReadout("mean", mlp(IN, 2)), gives=("graph",), ways=()),
    Row("GraphReadout, attention", lambda: GraphReadout(attention(IN, 2)), gives=("graph",), ways=()),
    Row(
        "SequenceClassifier",
        lambda: SequenceClassifier(GCN(IN, 4), mlp(4, 2)),
        gives=("graph",),
        ways=(),
        sparse=True,
        compiles=False,
    ),
    Row("Tagger", lambda: Tagger(GCN(IN, 4), mlp(4, 2)), ways=(), sparse=True),
    Row("LuongAttention", lambda: SelfAttention(IN, IN), ways=ATTENTION),
    Row("BahdanauAttention", lambda: AdditiveSelfAttention(IN, IN, 4), ways=ATTENTION),
    Row("LuongAttention, dot", lambda: SelfAttention(IN, IN, "dot"), ways=ATTENTION),
    Row("RNN", lambda: RNN(IN, 4), **ON_CHAINS),
    Row("RNN, residual", lambda: RNN(IN, 4, num_layers=2, bidirectional=True, residual=True), **ON_CHAINS),
    Row("Jordan", lambda: Jordan(IN, 4, 2), **ON_CHAINS),
    Row("Jordan, stacked", lambda: Jordan(IN, 4, 2, num_layers=2, bidirectional=True, decay=0.5), **ON_CHAINS),
    Row("DiagonalRNN", lambda: DiagonalRNN(IN, 4), **ON_CHAINS),
    Row("DiagonalRNN, stacked", lambda: DiagonalRNN(IN, 4, num_layers=2, bidirectional=True), **ON_CHAINS),
    Row("Window", lambda: DelayedWindow(2), symmetric=False, ways=NO_SPMM, compiles=False),
    Row("TDNN", lambda: DelayedTDNN(IN, 4, delays=2), symmetric=False, ways=NO_SPMM, compiles=False),
    Row("TDNN, shorter", lambda: DelayedTDNN(IN, 4, delays=1), symmetric=False, ways=NO_SPMM, compiles=False),
    Row("NARX", lambda: DelayedNARX(IN, 4, input_delays=1, output_delays=2), symmetric=False, **ON_CHAINS),
    Row("AR", lambda: DelayedAR(2), symmetric=False, **ON_CHAINS),
    Row("Highway", lambda: Highway(IN, 4), ways=NO_SPMM, compiles=False),
    Row("Highway, tied", lambda: Highway(IN, 3, tied=True), ways=NO_SPMM, compiles=False),
    Row("LSTM", lambda: Hidden(IN, 4), **ON_CHAINS),
    Row("LSTM, with c", lambda: Cells(IN, 4), gives=("node", "node"), **ON_CHAINS),
    Row("LSTM, no forget gate", lambda: Cells(IN, 4, forget="none"), gives=("node", "node"), **ON_CHAINS),
    Row(
        "LSTM, coupled, with peepholes",
        lambda: Cells(IN, 4, num_layers=2, bidirectional=True, forget="coupled", peephole=True),
        gives=("node", "node"),
        **ON_CHAINS,
    ),
    Row("GRU", lambda: GRU(IN, 4), **ON_CHAINS),
    Row("GRU, reset before", lambda: GRU(IN, 4, num_layers=2, bidirectional=True, reset="before"), **ON_CHAINS),
    Row("RecNN", lambda: PositionedRecNN(IN, 4), symmetric=False, **ON_CHAINS),
    Row("ChildSumTreeLSTM", lambda: ChildSumTreeLSTM(IN, 4), gives=("node", "node"), **ON_CHAINS),
    Row("ChildSumTreeLSTM, and back", lambda: ChildSumTreeLSTM(IN, 4, True), gives=("node", "node"), **ON_CHAINS),
    Row("TreeGRU", lambda: TreeGRU(IN, 4), **ON_CHAINS),
    Row("TreeGRU, and back", lambda: TreeGRU(IN, 4, reset="after", bidirectional=True), **ON_CHAINS),
    Row(
        "NaryTreeLSTM, and back",
        lambda: PositionedTreeLSTM(IN, 4, bidirectional=True),
        gives=("node", "node"),
        symmetric=False,
        **ON_CHAINS,
    ),
    Row(
        "GraphStructuredLSTM",
        lambda: Threaded(IN, 4),
        gives=("node", "node"),
        symmetric=False,
        **(ON_CHAINS | {"schedules": ("topological",)}),
    ),
    Row("GridLSTM", lambda: PositionedGridLSTM(IN, 4), gives=("node", "node"), symmetric=False, **ON_CHAINS),
    Row(
        "GridLSTM, with priority, and back",
        lambda: PositionedGridLSTM(IN, 4, priority=[0], shared=True, bidirectional=True),
        gives=("node", "node"),
        symmetric=False,
        **ON_CHAINS,
    ),
    Row("GraphLSTM", lambda: Confident(IN, 4), gives=("node", "node"), **ON_CHAINS),
    Row("GraphLSTM, one forget gate", lambda: Confident(IN, 4, False, False), gives=("node", "node"), **ON_CHAINS),
    Row("ResidualGraphLSTM", lambda: ConfidentLayers(IN), **ON_CHAINS),
    Row(
        "LatticeLSTM",
        lambda: Latticed(IN, 4, bidirectional=True),
        gives=("node", "node"),
        symmetric=False,
        **(ON_CHAINS | {"schedules": ("topological",)}),
    ),
    Row(
        "LatticeLSTM, coupled",
        lambda: Latticed(IN, 4, forget="coupled"),
        gives=("node", "node"),
        symmetric=False,
        **(ON_CHAINS | {"schedules": ("topological",)}),
    ),
    Row("HAN", lambda: TypedHAN(IN, 2, TYPES, heads=2, attention_features=4), sparse=True, ways=ATTENTION),
    Row(
        "HAN, no loops",
        lambda: TypedHAN(IN, 2, TYPES, heads=2, attention_features=4, self_loops=False, bias=True),
        sparse=True,
        ways=ATTENTION,
    ),
    Row("RelationWise", lambda: TypedRelations({TYPES[0]: GCN(IN, 2), TYPES[1]: GAT(IN, 2)}), sparse=True),
    Row(
        "RelationWise, attention",
        lambda: TypedRelations({kind: GAT(IN, 2, heads=2) for kind in TYPES}, SemanticAttention(4, 4)),
        sparse=True,
        ways=ATTENTION,
    ),
    Row("ContextAttention", lambda: ContextAttention(IN, 2), ways=ATTENTION),
    Row("HierarchicalAttention", lambda: Nested(IN, 2), **ON_CHAINS),
    Row("GraphRecurrent", lambda: SpaceTimeRecurrent(GCN, "gru", IN, 4), takes=("edge_weight",), **IN_FRAMES),
    Row(
        "GraphRecurrent, reset before the product",
        lambda: SpaceTimeRecurrent(GCN, "gru", IN, 4, "before"),
        takes=("edge_weight",),
        **IN_FRAMES,
    ),
    Row("GraphRecurrent, LSTM", lambda: SpaceTimeRecurrent(Chebyshev, "lstm", IN, 4), **IN_FRAMES),
    Row("AGCLSTM", lambda: SpaceTimeAGC(IN, 4), gives=("node", "node"), **IN_FRAMES),
    Row("Change", Change, ways=(*NO_SPMM, "small")),
    Row("PartAwareLSTM", lambda: HiddenParts(IN, 4, [[0, 2], [1]]), **ON_CHAINS),
    Row(
        "PartAwareLSTM, stacked",
        lambda: HiddenParts(IN, 4, [[0, 2], [1]], num_layers=2, bidirectional=True),
        **ON_CHAINS,
    ),
    Row("CRF", lambda: Forested(IN), symmetric=False, **(ON_CHAINS | {"schedules": ("topological",)})),
    Row("a layer with state", Recurrent, takes=("edge_weight",), schedules=tuple(SCHEDULES), ways=NO_SPMM, sparse=True),
]

every_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
on_the_engine = pytest.mark.parametrize("row", [row for row in TABLE if row.ways], ids=lambda row: row.name)


def rows_with(condition):
    """Runs a test on the rows that a condition holds for."""
    return pytest.mark.parametrize("row", [row for row in TABLE if condition(row)], ids=lambda row: row.name)


# Calling a layer ------------------------------------------------------------------------------------------------------


def made(row: Row, dtype=torch.float64, seed: int = 0) -> nn.Module:
    """The row's layer with random parameters, none at a special value such as 0."""
    torch.manual_seed(seed)
    layer = row.make().double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-0.9, 0.9)
    return layer.to(dtype)


def dressed(data: Data, row: Row, dtype=torch.float64, seed: int = 0) -> Data:
    """The graph with x, the inputs that the row takes, and what schedules go by."""
    torch.manual_seed(seed + data.num_nodes)
    data.x = torch.randn(data.num_nodes, IN).to(dtype)
    for name in row.takes:
        data[name] = EXTRA[name](data).to(dtype)
    data.priority = torch.randn(data.num_nodes)
    data.time = torch.randint(3, (data.num_nodes,))
    return data


def cases(row: Row):
    """Every schedule of the row on every graph of the zoo that allows it."""
    for schedule in row.schedules:
        for name, data in graphs(*SCHEDULES[schedule][1]).items():
            yield f"{schedule}, {name}", schedule, dressed(data, row)


def call(layer: nn.Module, row: Row, data: Data, schedule: str = "synchronous", **replaced) -> tuple[Tensor, ...]:
    parameters = inspect.signature(layer.forward).parameters
    given = {
        "x": data.x,
        "edge_index": data.edge_index,
        "batch": data.get("batch"),
        "schedule": SCHEDULES[schedule][0](data),
    }
    given["num_graphs"] = data.num_graphs if isinstance(data, Batch) else 1
    given |= {name: data[name] for name in row.takes} | replaced
    return tuple_of(layer(**{name: value for name, value in given.items() if name in parameters}))


def leaves_of(layer: nn.Module, row: Row, data: Data) -> list[Tensor]:
    """What gradients are taken of: parameters and inputs."""
    return [*layer.parameters(), *(data[name].requires_grad_() for name in ("x", *row.takes))]


# The checks -----------------------------------------------------------------------------------------------------------


@on_the_engine
def test_every_way_of_running_agrees(row):
    layer = made(row)
    for name, schedule, data in cases(row):
        leaves = leaves_of(layer, row, data)
        with mpnn.engine("reference"):
            expected = call(layer, row, data, schedule)
        for time in ("as picked", "as picked, once more"):
            assert_same(call(layer, row, data, schedule), expected, leaves, what=f"{name}, {time}")
        for way in row.ways[1:]:
            with mpnn.engine(way):
                assert_same(call(layer, row, data, schedule), expected, leaves, what=f"{name}, {way}")


def refused(layer: nn.Module) -> str | None:
    """What an error says of a layer whose levels cannot be compiled."""
    parts = [part for part in layer.modules() if isinstance(part, mpnn.MessagePassing)]
    if any(part.hooks.edge_update for part in parts):
        return "because edge_update asks for the messages"
    if any(type(part).__name__.startswith("SpaceTime") for part in parts):  # their hooks take one frame after the other
        return r"SpaceTime\w+: the hooks run, but torch cannot compile them"
    return None


@on_the_engine
@pytest.mark.usefixtures("interpreted")
def test_levels_agree_when_compiled_or_it_is_told_why_not(row):
    layer = made(row)
    for schedule in [name for name in row.schedules if name != "synchronous"][-1:]:
        for name in ("random dag", "isolated last node"):  # with levels of one node and of several
            data = dressed(graphs()[name], row)
            with mpnn.engine("reference"):
                expected = call(layer, row, data, schedule)
            with mpnn.engine("wavefront", compile=True):
                if reason := refused(layer):
                    with pytest.raises((ValueError, RuntimeError), match=reason):
                        call(layer, row, data, schedule)
                else:
                    found = call(layer, row, data, schedule)
                    assert_same(found, expected, leaves_of(layer, row, data), what=f"{name}, {schedule}")


@on_the_engine
def test_other_ways_are_refused(row):
    layer, data = made(row), dressed(graphs()["random"], row)
    for way in {"reference", "wavefront", "spmm", "small", "packed"} - set(row.ways):
        name = "|".join({type(part).__name__ for part in layer.modules()})  # its own, or that of a part
        with mpnn.engine(way), pytest.raises(ValueError, match=f"'{way}'.* cannot run ({name})"):
            call(layer, row, data)


@every_row
def test_results_have_a_row_for_each_node_edge_or_graph_and_are_finite(row):
    layer = made(row)
    for name, schedule, data in cases(row):
        result = call(layer, row, data, schedule)
        assert len(result) == len(row.gives)
        for value, rows in zip(result, row.gives, strict=True):
            assert len(value) == {"node": data.num_nodes, "edge": data.num_edges, "graph": 1}[rows], name
            assert value.isfinite().all(), name


@every_row
def test_relabelling_nodes_relabels_the_output(row):
    layer = made(row)
    for name, schedule, data in cases(row):
        new = torch.randperm(data.num_nodes)  # the new name of a node
        other = data.clone()
        other.edge_index = new[data.edge_index]
        for field in ("x", "priority", "time"):
            other[field] = torch.empty_like(data[field]).index_copy(0, new, data[field])
        before, after = call(layer, row, data, schedule), call(layer, row, other, schedule)
        for a, b, rows in zip(before, after, row.gives, strict=True):
            assert_close(b.index_select(0, new) if rows == "node" else b, a, name)


@every_row
def test_a_graph_alone_and_in_a_batch_gives_the_same(row):
    layer = made(row)
    for schedule in row.schedules:
        alone = [dressed(data, row) for data in graphs(*SCHEDULES[schedule][1]).values()]
        batch = Batch.from_data_list(alone)
        together = call(layer, row, batch, schedule, num_graphs=len(alone))
        lengths = {
            "node": [data.num_nodes for data in alone],
            "edge": [data.num_edges for data in alone],
            "graph": [1] * len(alone),
        }
        split = [value.split(lengths[rows]) for value, rows in zip(together, row.gives, strict=True)]
        for data, *parts in zip(alone, *split, strict=True):
            for part, value in zip(parts, call(layer, row, data, schedule), strict=True):
                assert_close(part, value, f"{schedule}, {data}")


@every_row
def test_the_order_of_edges_is_irrelevant_exactly_where_the_aggregation_is_symmetric(row):
    layer, moved = made(row), False
    for name, schedule, data in cases(row):
        if name.endswith("double loop") and "edge_weight" in row.takes:
            continue  # of two loops on a node, a layer that adds loops keeps the last one's weight
        order = torch.randperm(data.num_edges)
        other = data.clone()
        other.edge_index = data.edge_index[:, order]
        for field in row.takes:
            other[field] = data[field][order] if field.startswith("edge") else data[field]
        before, after = call(layer, row, data, schedule), call(layer, row, other, schedule)
        for a, b, rows in zip(before, after, row.gives, strict=True):
            a = a[order] if rows == "edge" else a
            if row.symmetric:
                assert_close(b, a, name)
            moved |= not torch.allclose(a, b)
    assert moved != row.symmetric


DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@every_row
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", DEVICES)
def test_dtype_and_device_are_kept(row, dtype, device):
    layer = made(row, dtype).to(device)
    exact = made(row)
    for name, schedule, data in cases(row):
        expected = call(exact, row, data, schedule)
        for field in ("x", *row.takes):
            data[field] = data[field].to(dtype)
        for value, reference in zip(call(layer, row, data.to(device), schedule), expected, strict=True):
            assert value.dtype == dtype and value.device.type == device, name
            torch.testing.assert_close(value.cpu().double(), reference, rtol=1e-4, atol=1e-5)


@every_row
def test_inputs_are_left_as_they_are(row):
    layer = made(row)
    for name, schedule, data in cases(row):
        leaves_of(layer, row, data)
        tensors = {field: data[field] for field in ("x", "edge_index", "priority", "time", *row.takes)}
        copies = {field: value.detach().clone() for field, value in tensors.items()}
        versions = {field: value._version for field, value in tensors.items()}
        result = call(layer, row, data, schedule)
        if any(value.requires_grad for value in result):
            sum(value.sum() for value in result).backward()
        for field, value in tensors.items():
            assert data[field] is value and torch.equal(value, copies[field]) and value._version == versions[field], (
                name,
                field,
            )


@every_row
def test_each_parameter_and_input_receives_a_gradient(row):
    layer, received = made(row), {}
    for schedule in row.schedules:
        data = dressed(graphs()["random dag" if SCHEDULES[schedule][1] else "random"], row)
        leaves_of(layer, row, data)
        sum((value**2).sum() for value in call(layer, row, data, schedule)).backward()
        received |= {f"{field}, {schedule}": data[field] for field in ("x", *row.takes)}
    for name, leaf in (dict(layer.named_parameters()) | received).items():
        assert leaf.grad is not None and leaf.grad.isfinite().all() and leaf.grad.abs().max() > 1e-8, name


@every_row
def test_a_state_dict_survives_a_round_trip(row):
    layer, other, data = made(row), made(row, seed=1), dressed(graphs()["random"], row)
    expected = call(layer, row, data)
    if any(True for _ in layer.parameters()):
        assert not torch.equal(call(other, row, data)[-1], expected[-1])
    other.load_state_dict(layer.state_dict())
    for a, b in zip(call(other, row, data), expected, strict=True):
        assert torch.equal(a, b)


@every_row
def test_a_graph_that_was_first_seen_in_inference_mode_can_be_trained_on(row):
    layer = made(row)
    takes_plans = "edge_index" in inspect.signature(layer.forward).parameters
    for schedule in row.schedules:
        data = dressed(graphs()["random dag" if SCHEDULES[schedule][1] else "random"], row)
        with torch.inference_mode():
            graphs_seen = [data.edge_index, mpnn.plan(data, SCHEDULES[schedule][0](data))][: 1 + takes_plans]
            evaluated = [call(layer, row, data, schedule, edge_index=graph) for graph in graphs_seen]
        leaves = leaves_of(layer, row, data)
        expected = call(layer, row, data, schedule, edge_index=data.edge_index.clone())
        for graph, values in zip(graphs_seen, evaluated, strict=True):
            assert_same(call(layer, row, data, schedule, edge_index=graph), expected, leaves, what=schedule)
            for a, b in zip(values, expected, strict=True):
                assert_close(a.clone(), b.detach(), f"{schedule}, in inference mode")


@rows_with(lambda row: row.sparse)
def test_sparse_features_that_were_first_seen_in_inference_mode_can_be_trained_on(row):
    layer, data = made(row), dressed(graphs()["random"], row)
    x = data.x.to_sparse_csr()
    with torch.inference_mode():
        call(layer, row, data, x=x)
    leaves = list(layer.parameters())
    assert_same(call(layer, row, data, x=x), call(layer, row, data), leaves, what=row.name)


@every_row
def test_layers_run_on_what_was_made_in_inference_mode(row):
    layer = made(row)
    expected = call(layer, row, dressed(graphs()["random dag"], row))
    with torch.inference_mode():
        data = dressed(graphs()["random dag"], row)
        data.edge_index = data.edge_index.clone()
        for _ in range(2):  # once more, with what may be kept
            for a, b in zip(call(layer, row, data), expected, strict=True):
                assert_close(a.clone(), b.detach(), "in inference mode")


class Halved(nn.Module):
    """A parametrisation: the weight is half of what is trained."""

    def forward(self, weight):
        return weight / 2

    def right_inverse(self, weight):
        return 2 * weight


@every_row
def test_parameters_may_be_parametrised(row):
    layer, data = made(row), dressed(graphs()["random dag"], row)
    schedule = "topological" if "topological" in row.schedules else "synchronous"
    expected = call(layer, row, data, schedule)
    plain = dict(zip(dict(layer.named_parameters()), gradients(expected, list(layer.parameters())), strict=True))
    for module in list(layer.modules()):
        for name, _ in list(module.named_parameters(recurse=False)):
            parametrize.register_parametrization(module, name, Halved())
    found = call(layer, row, data, schedule)
    trained = dict(layer.named_parameters())
    for a, b in zip(found, expected, strict=True):
        assert_close(a.detach(), b.detach(), "result")
    for name, grad in zip(trained, gradients(found, list(trained.values())), strict=True):
        assert_close(grad, plain[name.replace("parametrizations.", "").removesuffix(".original")] / 2, name)
    layer.load_state_dict(layer.state_dict())
    for a, b in zip(call(layer, row, data, schedule), expected, strict=True):
        assert_close(a.detach(), b.detach(), "after a round trip")


@every_row
def test_the_repr_names_the_class(row):
    layer = made(row)
    assert repr(layer).startswith(type(layer).__name__ + "(")


@rows_with(lambda row: hasattr(row.make(), "reset_parameters"))
def test_resetting_draws_new_parameters(row):
    torch.manual_seed(0)
    layer = row.make()
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(7.0)
    layer.reset_parameters()
    for name, parameter in layer.named_parameters():
        assert not (parameter == 7.0).any(), name
        constant = before[name].numel() > 1 and bool((before[name] == before[name].flatten()[0]).all())
        assert torch.equal(parameter, before[name]) if constant or not before[name].dim() else True, name
        if constant:
            assert before[name].flatten()[0] in (0, 1), name
        elif before[name].numel() >= 16:  # drawn from both sides of 0
            assert (parameter > 0).any() and (parameter < 0).any() and parameter.abs().max() < 4, name


@rows_with(lambda row: "edge_index" in inspect.signature(row.make().forward).parameters)
def test_a_plan_stands_in_for_edge_index(row):
    layer = made(row)
    for name, schedule, data in cases(row):
        leaves = leaves_of(layer, row, data)
        plan = mpnn.plan(data, SCHEDULES[schedule][0](data))
        expected = call(layer, row, data, schedule)
        assert_same(call(layer, row, data, schedule, edge_index=plan), expected, leaves, what=name)


@rows_with(lambda row: row.sparse)
def test_sparse_features_are_the_dense_ones(row):
    layer = made(row)
    for name, schedule, data in cases(row):
        leaves = leaves_of(layer, row, data)
        dense = data.x.detach() * (torch.rand(data.num_nodes, IN) < 0.5)
        expected = call(layer, row, data, schedule, x=dense)
        sparse = call(layer, row, data, schedule, x=dense.to_sparse_csr())
        assert_same(sparse, expected, leaves, what=name)


@rows_with(lambda row: not row.sparse)
def test_sparse_features_are_refused_with_the_way_out_where_they_are_not_accepted(row):
    layer, data = made(row), dressed(graphs()["random"], row)
    with pytest.raises(ValueError, match=rf"{type(layer).__name__}.*: x is sparse.*Pass x.to_dense\(\)"):
        call(layer, row, data, x=data.x.to_sparse_csr())


# an LSTM's shapes depend on values of edge_index
@rows_with(lambda row: "synchronous" in row.schedules and row.compiles)
def test_one_compilation_serves_graphs_of_all_sizes(row):
    compilations = []

    def backend(module, inputs):
        compilations.append(module)
        return module

    torch._dynamo.reset()
    layer = made(row)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    for num_nodes, num_edges in ((5, 8), (11, 23), (17, 40)):
        edge_index = torch.randint(num_nodes, (2, num_edges), generator=torch.Generator().manual_seed(num_nodes))
        data = dressed(Data(edge_index=edge_index, num_nodes=num_nodes), row)
        leaves = leaves_of(layer, row, data)
        expected = call(layer, row, data)
        parameters = inspect.signature(layer.forward).parameters
        given = {"x": data.x, "edge_index": data.edge_index, "num_graphs": 1} | {name: data[name] for name in row.takes}
        got = compiled(**{name: value for name, value in given.items() if name in parameters})
        assert_same(got, expected, leaves, what=f"{num_nodes} nodes")
    assert len(compilations) == 1
