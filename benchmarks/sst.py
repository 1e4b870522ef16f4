"""Real parse trees in batches and one by one: a binary Tree-LSTM on the Stanford Sentiment Treebank.

- ``trees``: forward and backward of a binary Tree-LSTM (Tai, Socher & Manning 2015, eq. 9-14; word vectors of width 50
  at the leaves, 150 hidden features, a loss at every node) on 100 sentences of the training set, every 85th: in batches
  of 25 whose plans are kept, in batches that a loader joins and plans each time, tree by tree with the same layer, and
  tree by tree in plain torch, where the leaves are taken at once and the inner nodes one after the other.
- ``epoch``: one epoch of training as ``scripts/sst.py`` does it: all 8,544 trees in new batches of 25, joined and
  planned by the loader, with dropout, AdaGrad, and word vectors that are trained; and every tenth tree with the same
  model tree by tree, a step of AdaGrad every 25 trees.

Items are trees. The reference is the matrix products of the cell alone, batch by batch: of the word vectors at the
leaves and of the children's states, forward and both backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial

import torch
import torch.nn.functional as F
from _harness import Absent, Case, Contender, Step, main
from torch import Tensor, nn
from torch_geometric.data import Data

import mpnn
from mpnn.datasets import Vocabulary
from mpnn.loader import DataLoader

BATCH = 25
TINY = "(3 (2 It) (4 (2 's) (3 good)))\n(1 (1 (2 not) (3 (2 a) (4 good))) (2 (2 one) (2 .)))\n(0 bad)\n"


@cache
def treebank(smoke: bool) -> tuple[list[Data], int]:
    """The training trees, with a number for each leaf's word, and how many words there are."""
    try:
        trees = mpnn.datasets.sst.trees(TINY * 10) if smoke else mpnn.datasets.load("sst", download=False)["train"]
    except FileNotFoundError as error:
        raise Absent(f"the Stanford Sentiment Treebank is not here ({str(error).split('. ')[0]})") from error
    known = Vocabulary([word for word in tree.word if word] for tree in trees)
    for tree in trees:
        tree.leaf = torch.tensor([word is not None for word in tree.word])
        tree.word = known(word for word in tree.word if word)
    return trees, len(known)


class Sentiment(nn.Module):
    """Word vectors, a binary Tree-LSTM, a score for each class at every node."""

    def __init__(self, words: int, width: int, hidden: int, dropout: float = 0.0, sparse: bool = False):
        super().__init__()
        self.words, self.dropout = nn.Embedding(words, width, sparse=sparse), nn.Dropout(dropout)
        self.tree, self.out = mpnn.nn.NaryTreeLSTM(width, hidden), nn.Linear(hidden, 5)

    def forward(self, batch: Data) -> Tensor:
        x = self.dropout(self.words(batch.word))
        leaves = batch.leaf.nonzero().flatten()
        at_nodes = x.new_zeros(batch.num_nodes, x.shape[1]).index_copy(0, leaves, x)
        h, _ = self.tree(at_nodes, batch.plan, batch.child)
        return self.out(self.dropout(h))


class Recursion(Sentiment):
    """The same formulas in plain torch, for one tree: ``tree.sides`` has the children of each inner node."""

    def forward(self, tree: Data) -> Tensor:
        left, right = tree.sides
        h, c = self.leaves(self.words(tree.word))
        states = dict(zip(tree.leaf.nonzero().flatten().tolist(), zip(h.split(1), c.split(1))))
        for node in sorted(left, reverse=True):  # a child's number is higher than its parent's
            states[node] = self.join(*states[left[node]], *states[right[node]])
        return self.out(torch.cat([states[node][0] for node in range(tree.num_nodes)]))

    def leaves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        i, _, g, o = F.linear(x, self.tree.weight_ih, self.tree.bias).chunk(4, dim=1)
        c = torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def join(self, h_l: Tensor, c_l: Tensor, h_r: Tensor, c_r: Tensor) -> tuple[Tensor, Tensor]:
        b_i, b_f, b_g, b_o = self.tree.bias.chunk(4)
        bias = torch.cat([b_i, b_f, b_f, b_g, b_o])
        gates = F.linear(torch.cat([h_l, h_r], dim=1), self.tree.weight_hh, bias)
        i, f_l, f_r, g, o = gates.chunk(5, dim=1)
        c = torch.sigmoid(i) * torch.tanh(g) + torch.sigmoid(f_l) * c_l + torch.sigmoid(f_r) * c_r
        return torch.sigmoid(o) * torch.tanh(c), c


def sides(tree: Data) -> tuple[dict[int, int], dict[int, int]]:
    """Each inner node's left child, and its right one."""
    children = ({}, {})
    for (child, parent), side in zip(tree.edge_index.t().tolist(), tree.child.tolist(), strict=True):
        children[side][parent] = child
    return children


def passes(kind: type[Sentiment], words: int, hidden: int, make: Callable[[], Iterable[Data]]) -> Step:
    """Forward and backward over all batches; the sum of their losses and the gradients."""
    torch.manual_seed(0)
    model = kind(words, 50, hidden)
    batches = make()

    def step() -> list[Tensor]:
        model.zero_grad(set_to_none=True)
        total = torch.zeros(())
        for batch in batches:
            loss = F.cross_entropy(model(batch), batch.y, reduction="sum")
            loss.backward()
            total += loss.detach()
        return [total, *(parameter.grad for parameter in model.parameters())]

    return step


def products_step(trees: list[Data], hidden: int) -> Step:
    """W on the leaves, U on both children of the inner nodes; the gradients of both, and of the states."""
    batches = []
    for some in (trees[k : k + BATCH] for k in range(0, len(trees), BATCH)):
        inner = sum(tree.edge_index.shape[1] for tree in some) // 2
        batches.append((torch.randn(inner + len(some), 50), torch.randn(inner, 2 * hidden)))
    weights = torch.randn(4 * hidden, 50), torch.randn(5 * hidden, 2 * hidden)

    def step() -> list[Tensor]:
        for rows in batches:
            for x, weight in zip(rows, weights):
                y = x @ weight.t()
                y.t() @ x
                y @ weight
        return []

    return step


def trees_case(smoke: bool) -> Case:
    every, words = treebank(smoke)
    count, hidden = (5, 8) if smoke else (100, 150)
    some = every[:: len(every) // count][:count]
    loader = partial(DataLoader, some, schedule="topological")

    def with_sides() -> list[Data]:
        trees = [tree.clone() for tree in some]
        for tree in trees:
            tree.sides = sides(tree)
        return trees

    ways = [
        (f"mpnn, batches of {BATCH}", "mpnn", Sentiment, lambda: list(loader(BATCH))),
        (f"mpnn, batches of {BATCH} joined and planned each time", "mpnn", Sentiment, lambda: loader(BATCH)),
        ("mpnn, tree by tree", "peer", Sentiment, lambda: list(loader(1))),
        ("plain torch, tree by tree", "peer", Recursion, with_sides),
    ]
    nodes = sum(tree.num_nodes for tree in some)
    return Case(
        f"Binary Tree-LSTM, {hidden} hidden, on {count} sentences with {nodes:,} nodes; forward and backward.",
        [
            Contender(name, partial(passes, kind, words, hidden, make), role, size=count)
            for name, role, kind, make in ways
        ]
        + [Contender("matrix products alone", partial(products_step, some, hidden), "reference", False, count)],
    )


def epoch_step(trees: list[Data], words: int, hidden: int, at_once: int) -> Step:
    """An epoch in batches of 25, of which ``at_once`` trees at a time go through the model."""
    torch.manual_seed(0)
    model = Sentiment(words, 50, hidden, dropout=0.5, sparse=True)
    rest = [*model.tree.parameters(), *model.out.parameters()]
    groups = [{"params": rest, "weight_decay": 1e-4}, {"params": model.words.parameters(), "lr": 0.01}]
    optimizer = torch.optim.Adagrad(groups, lr=0.05)
    loader = DataLoader(trees, at_once, shuffle=True, schedule="topological")
    every = BATCH // at_once

    def step() -> list[Tensor]:
        for count, batch in enumerate(loader, start=1):
            loss = F.cross_entropy(model(batch), batch.y, reduction="sum")
            (loss / (batch.num_graphs * every)).backward()
            if count % every == 0 or count == len(loader):
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return []

    return step


def epoch_case(smoke: bool) -> Case:
    (trees, words), hidden = treebank(smoke), 8 if smoke else 150
    few = trees[::10]

    def contender(name: str, role: str, some: list[Data], at_once: int) -> Contender:
        return Contender(name, partial(epoch_step, some, words, hidden, at_once), role, agrees=False, size=len(some))

    return Case(
        f"One epoch of training: {len(trees):,} trees, {sum(tree.num_nodes for tree in trees):,} nodes.",
        [
            contender(f"mpnn, batches of {BATCH}", "mpnn", trees, BATCH),
            contender(f"mpnn, tree by tree, {len(few)} trees", "peer", few, 1),
            Contender("matrix products alone", partial(products_step, trees, hidden), "reference", False, len(trees)),
        ],
        note="Trees a second are a million over the time of an item; ratios are of epochs of unequal numbers of trees.",
    )


CASES = {"trees": trees_case, "epoch": epoch_case}

if __name__ == "__main__":
    main(__file__, __doc__, CASES, threads=(1,))
