"""scripts/listops.py: what the two models see, and that no expression is in two parts."""

import statistics
from dataclasses import replace

import pytest
import torch
from run_scripts import load
from torch_geometric.data import Batch

from mpnn.expressions import OPERATORS, TOKENS, evaluate, random_expression, to_text
from mpnn.train import examples

MEANING = {"MAX": max, "MIN": min, "MED": lambda v: int(statistics.median(v)), "SM": lambda v: sum(v) % 10}


@pytest.fixture(scope="module")
def listops():
    return load("listops")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return Batch.from_data_list([random_expression(generator, max_depth=4, max_args=4) for _ in range(40)])


def test_the_chain_reads_as_the_text_with_values_at_closing_brackets(listops, batch):
    view = listops.tokens(batch)
    words = [*TOKENS[:10], *(f"[{name}" for name in OPERATORS), "]"]
    texts = [to_text(data) for data in batch.to_data_list()]
    assert " ".join(words[token] for token in view.x) == " ".join(texts)
    value, open_ones = evaluate(batch.x, batch.edge_index, batch.depth), []
    found = {int(view.place[node]): int(value[node]) for node in (batch.x >= 10).nonzero().flatten()}
    for place, word in enumerate(" ".join(texts).split()):  # an evaluator that reads the words from the left
        if word == "]":
            name, *arguments = open_ones.pop()
            result = MEANING[name](arguments)
            assert found.pop(place) == result
        elif word.startswith("["):
            open_ones.append([word[1:]])
            continue
        else:
            result = int(word)
        if open_ones:
            open_ones[-1].append(result)
    assert not found


def test_the_chains_of_a_batch_are_apart(listops, batch):
    view = listops.tokens(batch)
    ends = torch.tensor([len(to_text(data).split()) for data in batch.to_data_list()]).cumsum(0)
    assert (view.edge_index[1] == view.edge_index[0] + 1).all()
    assert set(range(1, len(view.x))) - set(view.edge_index[1].tolist()) == set(ends[:-1].tolist())


def test_the_binary_tree_takes_in_the_arguments_from_the_left(listops, batch):
    view = listops.binary(batch)
    children = [{} for _ in range(view.num_nodes)]
    for (child, parent), place in zip(view.edge_index.t().tolist(), view.child.tolist()):
        assert place not in children[parent]
        children[parent][place] = child

    def text(node):
        if not children[node]:
            return TOKENS[view.x[node]]
        arguments, at = [], node
        while at is not None:
            assert view.x[at] == view.x[node]
            arguments.append(text(children[at][1]))
            at = children[at].get(0)
        return f"[{TOKENS[view.x[node]]} {' '.join(reversed(arguments))} ]"

    roots = view.place[batch.root_mask].tolist()
    assert [text(root) for root in roots] == [to_text(data) for data in batch.to_data_list()]


def test_both_views_ask_for_the_same_values(listops, batch):
    expressions = batch.to_data_list()
    tree, chain = (listops.batches(expressions, kind, 40)[0] for kind in ("tree-lstm", "lstm"))
    assert torch.equal(tree.y, chain.y) and torch.equal(tree.root, chain.root)
    assert torch.equal(tree.y[tree.root], batch.y[batch.x[batch.root_mask] >= 10])
    assert tree.depth.tolist() == [int(data.depth.max()) for data in expressions]


def test_no_expression_is_in_two_parts_or_twice_and_every_depth_has_as_many(listops):
    config = replace(listops.Config(), depth=2, beyond=1, train=60, test=20)
    parts = listops.draw(config)
    texts = {part: [to_text(data) for data in expressions] for part, expressions in parts.items()}
    everything = sum(texts.values(), [])
    assert len(set(everything)) == len(everything)
    depths = {part: [int(data.depth.max()) for data in expressions] for part, expressions in parts.items()}
    assert depths == {"train": [1] * 60 + [2] * 60, "val": [1] * 20 + [2] * 20, "test": [1] * 20 + [2] * 20 + [3] * 20}
    again = [to_text(data) for data in listops.draw(config)["train"]]
    assert again == texts["train"]


def test_a_run_that_was_killed_goes_on_to_the_same_result(listops, tmp_path, monkeypatch):
    config = replace(listops.Config(), epochs=4, depth=2, beyond=0, train=60, test=20, hidden=8)
    data = {part: listops.batches(expressions, "lstm", 20) for part, expressions in listops.draw(config).items()}

    def weights(checkpoint, seed=0):
        torch.manual_seed(seed)
        model = listops.train(config, "lstm", data, checkpoint)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    whole, asked, right = weights(tmp_path / "whole.pt"), [], listops.right

    def killed(*arguments):
        asked.append(arguments)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return right(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(listops, "right", killed)
        weights(tmp_path / "killed.pt")
    assert torch.equal(weights(tmp_path / "killed.pt", seed=1), whole)  # all that counts is in the checkpoint


def test_examples_are_expressions(listops):
    expressions = listops.draw(replace(listops.Config(), depth=2, beyond=0, train=30, test=10))["train"]
    for kind in ("tree-lstm", "lstm"):
        assert [examples(batch) for batch in listops.batches(expressions, kind, 25)] == [25, 25, 10]
