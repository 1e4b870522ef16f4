"""Threads of comments: what is read, and what a comment's place in its thread says."""

import json
import random

import networkx as nx
import pytest
import torch
from torch_geometric.data import Batch, Data

import mpnn
from mpnn.datasets import threads
from mpnn.schedule import topological

LIMITS = [1, 3, 7]


def line(count: int = 6, seed: int = 0, **more) -> str:
    """A random thread as a line of the files; comments are in order of time."""
    draw = random.Random(seed)
    times = sorted(draw.randrange(10**6) for _ in range(count))
    ids = ["post", *(f"c{k}" for k in range(count))]
    comments = [
        {
            "id": ids[k + 1], "parent": ids[draw.randrange(k + 1)], "author": draw.randrange(-1, 4),
            "created": 1000 + time, "score": draw.randrange(-3, 12), "text": f"comment {k}",
        }
        for k, time in enumerate(times)
    ]  # fmt: skip
    post = {"id": "post", "split": "train", "author": 0, "created": 1000, "score": 50, "title": "Title", "text": "Text"}
    return json.dumps(post | {"comments": comments} | more)


def read_one(text: str, **options):
    (data,) = threads.of_threads([text], LIMITS, **options)["train"]
    return data


def test_the_post_is_the_root_and_has_no_level():
    data = read_one(line())
    assert data.node_id[0] == "post" and data.text[:2] == ["Title\nText", "comment 0"]
    assert data.y[0] == -1 and (data.y[1:] >= 0).all()
    assert data.time[0] == 0 and (data.time.diff() >= 0).all()
    assert data.parent_index[1].tolist() == list(range(1, 7)) and (data.parent_index[0] < data.parent_index[1]).all()


def test_a_level_counts_the_thresholds_that_the_score_exceeds():
    scores = [-5, 1, 2, 3, 4, 7, 8, 100]
    comment = {"parent": "post", "author": 1, "created": 1000, "text": ""}
    data = read_one(line(comments=[comment | {"id": str(k), "score": score} for k, score in enumerate(scores)]))
    assert data.y[1:].tolist() == [sum(limit < score for limit in LIMITS) for score in scores]


def test_the_first_comments_are_kept():
    whole, some = read_one(line(30)), read_one(line(30), first=10)
    assert some.num_nodes == 11 and some.node_id == whole.node_id[:11]
    assert torch.equal(some.parent_index, whole.parent_index[:, :10])


def test_parts_are_told_apart_and_an_unknown_one_is_an_error():
    lines = [line(split=split) for split in ("train", "dev", "test", "dev")]
    assert {part: len(some) for part, some in threads.of_threads(lines, LIMITS).items()} == {
        "train": 1, "val": 2, "test": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match="line 2 has split='held out'; expected train, dev, test"):
        threads.of_threads([line(), line(split="held out")], LIMITS)


def test_a_batch_shifts_edges_and_nothing_else():
    one, two = read_one(line(4, 1)), read_one(line(5, 2))
    batch = Batch.from_data_list([one, two])
    for relation in ("parent", "sibling"):
        assert torch.equal(
            batch[f"{relation}_index"], torch.cat([one[f"{relation}_index"], two[f"{relation}_index"] + 5], dim=1)
        )
    for field in ("time", "author", "score", "y"):
        assert torch.equal(batch[field], torch.cat([one[field], two[field]])), field


def counted(data) -> dict[str, list[float]]:
    """Columns of ``context``, before the logarithm, by walking over the tree node by node."""
    tree = nx.DiGraph(data.parent_index.t().tolist())
    tree.add_nodes_from(range(data.num_nodes))
    time, author = data.time.tolist(), data.author.tolist()
    rows = []
    for k in range(data.num_nodes):
        up = next(iter(tree.predecessors(k)), None)
        siblings = [] if up is None else sorted(tree.successors(up))
        before = [s for s in siblings if s < k]
        replies, below = sorted(tree.successors(k)), nx.descendants(tree, k)
        far = nx.single_source_shortest_path_length(tree, k)
        rows.append(
            {
                "hours since the post": time[k] / 3600,
                "hours since the parent": 0 if up is None else (time[k] - time[up]) / 3600,
                "comments before": max(k - 1, 0),
                "comments after": sum(j > k for j in tree),
                "by the poster": author[k] == author[0],
                "comments of the author": 1 if author[k] == -1 else author.count(author[k]),
                "depth": 0 if up is None else nx.shortest_path_length(tree, 0, k),
                "siblings": max(len(siblings) - 1, 0),
                "replies": len(replies),
                "height": max(far.values()),
                "size": 1 + len(below),
                "earlier siblings": len(before),
                "hours since the earlier sibling": (time[k] - time[before[-1]]) / 3600 if before else 0,
                "hours to the first reply": (time[replies[0]] - time[k]) / 3600 if replies else 0,
                "replies of the poster": sum(author[j] == author[0] for j in replies),
                "authors below": len({author[j] for j in below} - {-1, author[k]}),
                "unknown author": author[k] == -1,
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize("seed", range(6))
def test_context_counts_what_a_walk_over_the_tree_counts(seed):
    data = read_one(line([0, 1, 2, 9, 20, 40][seed], seed))
    columns = threads.context(data)
    expected = counted(data)
    for name, values in expected.items():
        values = torch.tensor(values, dtype=torch.float)
        if name not in ("by the poster", "unknown author"):
            values = values.log1p()
        assert torch.allclose(columns[name], values, rtol=1e-5), name
    for count in ("replies", "size"):
        most = max(expected[count][1:], default=1) or 1
        assert columns[f"share of {count}"].tolist() == pytest.approx([min(n / most, 1) for n in expected[count]])
    assert columns.keys() == expected.keys() | {"share of replies", "share of size"}


def test_context_does_not_look_at_scores():
    data = read_one(line(20))
    before = threads.context(data)
    data.score, data.y = -data.score, data.y.flip(0)
    after = threads.context(data)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_real_threads_count_what_was_measured(mpnn_data):
    graphs = mpnn.datasets.load("reddit-threads", download=False)
    comments = {
        (name, part): sum(data.num_nodes - 1 for data in some if data.subreddit == name)
        for part, some in graphs.items()
        for name in ("askacademia", "college")
    }
    assert [comments["askacademia", part] for part in ("train", "val", "test")] == [14_184, 5_035, 4_729]
    assert [comments["college", part] for part in ("train", "val", "test")] == [14_424, 4_740, 4_779]
    levels = torch.cat([data.y[1:] for data in graphs["test"] if data.subreddit == "college"])
    assert levels.bincount().tolist() == [1929, 1464, 699, 338, 173, 87, 45, 44]
    every = [data for some in graphs.values() for data in some]
    depth = [int(topological(Data(edge_index=data.parent_index, num_nodes=data.num_nodes)).max()) for data in every]
    assert max(depth) == 32
