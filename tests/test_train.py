"""The training loop that all scripts share."""

import pytest
import torch
from run_scripts import saving
from torch import nn

import mpnn.train
from mpnn.loader import collate
from mpnn.train import Fit, Shuffled, examples, fit, seed_all, watched


def problem(seed: int = 0, lr: float = 0.1):
    """A small regression with dropout, so that the random state matters."""
    seed_all(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    x = torch.randn(16, 3)
    y = x.sum(1, keepdim=True)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    return {
        "model": model,
        "batches": [(x[:8], y[:8]), (x[8:], y[8:])],
        "loss": lambda m, batch: (m(batch[0]) - batch[1]).square().mean(),
        "evaluate": lambda m: {"val": -float((m(x) - y).square().mean())},
        "optimizer": optimizer,
        "schedulers": [torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)],
    }


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_best_state_is_put_back():
    task = problem()
    scores = iter([1.0, 5.0, 2.0, 3.0])
    kept = []

    def evaluate(model):
        kept.append(parameters(model))
        return {"val": next(scores)}

    done = fit(**task | {"evaluate": evaluate}, epochs=4)
    assert done.best == {"val": 5.0, "epoch": 2}
    assert torch.equal(parameters(task["model"]), kept[1]) and not torch.equal(kept[1], kept[3])
    assert not task["model"].training


def test_patience_stops_the_run():
    scores = iter([1.0, 3.0, 2.0, 2.0, 2.0, 9.0])
    done = fit(**problem() | {"evaluate": lambda m: {"val": next(scores)}}, epochs=6, patience=3)
    assert done.epochs == 5 and done.best["epoch"] == 2


def test_a_run_that_was_killed_resumes_to_the_same_result(tmp_path):
    whole = problem()
    expected = fit(**whole, epochs=8)
    broken = problem()
    fit(**broken, epochs=3, checkpoint=tmp_path / "run.pt")
    again = problem(seed=5)  # another start, as a new process would have before it loads
    again["batches"], again["evaluate"] = whole["batches"], whole["evaluate"]
    resumed = fit(**again, epochs=8, checkpoint=tmp_path / "run.pt")
    assert resumed.history == expected.history and resumed.best == expected.best
    assert torch.equal(parameters(again["model"]), parameters(whole["model"]))


def test_a_finished_run_is_not_trained_again(tmp_path):
    task = problem()
    done = fit(**task, epochs=3, checkpoint=tmp_path / "run.pt")
    before = parameters(task["model"])
    assert fit(**task, epochs=3, checkpoint=tmp_path / "run.pt").history == done.history
    assert torch.equal(parameters(task["model"]), before)


def larger():
    return {"model": nn.Sequential(nn.Linear(3, 9), nn.Dropout(0.5), nn.Linear(9, 1))}


def other_optimizer():
    model = problem()["model"]
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.1), "schedulers": []}


def fewer_parameters():
    model = problem()["model"]
    return {"model": model, "optimizer": torch.optim.Adam(model[0].parameters(), 0.1)}


OTHERS = {
    "a larger model": (larger, r"size mismatch for 0.weight: .*\[8, 3\].*\[9, 3\]"),
    "another model": (lambda: {"model": nn.Linear(3, 1)}, r"Missing key\(s\) in state_dict: \"weight\", \"bias\""),
    "another optimizer": (other_optimizer, "there is no dampening, momentum for SGD"),
    "fewer parameters": (fewer_parameters, "parameter group that doesn't match the size"),
    "no scheduler": (lambda: {"schedulers": []}, "argument 2 is longer"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_run_names_its_file_and_what_differs(name, tmp_path):
    path, (other, differs) = tmp_path / "run.pt", OTHERS[name]
    fit(**problem(), epochs=2, checkpoint=path)
    with pytest.raises(ValueError, match=rf"(?s)checkpoint {path} is not of this run.*Delete it, or.*--out.*{differs}"):
        fit(**problem() | other(), epochs=3, checkpoint=path)


@pytest.mark.parametrize("content", [{"model": {}}, None])
def test_a_file_that_is_no_checkpoint_is_named(content, tmp_path):
    path = tmp_path / "run.pt"
    path.write_text("text") if content is None else torch.save(content, path)
    with pytest.raises(ValueError, match=f"the checkpoint {path} is not of this run; .* Delete it, or"):
        fit(**problem(), epochs=3, checkpoint=path)


def test_short_epochs_are_saved_once_a_second_and_the_last_one_always(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(mpnn.train.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(mpnn.train, "SAVE_EVERY", 1.0)

    def saved(tick: float, name: str, **options) -> list[int]:
        task = problem()
        evaluate = task["evaluate"]
        task["evaluate"] = lambda model: clock.__setitem__(0, clock[0] + tick) or evaluate(model)
        with saving() as epochs:
            fit(**task, checkpoint=tmp_path / name, **options)
        return epochs

    assert saved(2.0, "slow.pt", epochs=4) == [1, 2, 3, 4]
    assert saved(0.25, "fast.pt", epochs=10) == [4, 8, 10]
    assert saved(0.0, "faster.pt", epochs=10) == [10]
    assert saved(0.0, "stopped.pt", epochs=10, better=lambda new, best: False, patience=3) == [4]


def test_a_rule_may_look_at_the_history_of_a_resumed_run_too(tmp_path):
    def trained(*parts: int):
        for epochs in parts:
            seen, done = [], Fit()
            fit(
                **problem(), epochs=epochs, checkpoint=tmp_path / f"{len(parts)}.pt", result=done, patience=2,
                better=lambda new, best: False,
                hopeful=lambda new, done=done, seen=seen: seen.append(done.history["val"][:]) or len(seen[-1]) < 4,
            )  # fmt: skip
        return seen, done

    seen, done = trained(9)
    assert [len(history) for history in seen] == [1, 2, 3, 4, 5] and seen[-1] == done.history["val"]
    resumed, again = trained(2, 9)
    assert resumed == seen[2:] and again.history == done.history


def test_gradients_are_clipped():
    task = problem()
    task["optimizer"] = torch.optim.SGD(task["model"].parameters(), 1.0)
    start = parameters(task["model"])
    task |= {"batches": task["batches"][:1], "schedulers": [], "evaluate": lambda m: {"val": 0.0}}
    fit(**task, epochs=1, clip=1e-3)
    assert 0 < float((parameters(task["model"]) - start).norm()) <= 1.001e-3


def test_a_loss_that_is_nan_names_the_epoch():
    losses = iter([1.0, float("nan")])
    task = problem() | {"loss": lambda m, batch: next(losses) * m(batch[0]).sum()}
    with pytest.raises(FloatingPointError, match="nan in epoch 1"):
        fit(**task, epochs=3)


def by_f1(new, best):
    return new["f1"] > best["f1"]


@pytest.mark.parametrize(
    ("name", "options"),
    [("val", {}), ("f1", {"better": by_f1}), ("f1", {"hopeful": lambda new: by_f1(new, new)})],
    ids=["by itself", "better", "hopeful"],
)
def test_a_metric_that_is_not_returned_is_named_after_the_first_epoch(name, options):
    evaluations = []
    task = problem() | {"evaluate": lambda model: evaluations.append(1) or {"loss": 0.5, "accuracy": 0.9}}
    words = f"fit: the metric '{name}' is asked for, but evaluate returned only 'loss', 'accuracy'. Return '{name}' too"
    with pytest.raises(ValueError, match=words):
        fit(**task, **options, epochs=3)
    assert len(evaluations) == 1
    with pytest.raises(ValueError, match="'val' is asked for, but evaluate returned nothing"):
        fit(**problem() | {"evaluate": lambda model: {}}, epochs=1)


def test_a_rule_of_ones_own_goes_by_other_metrics():
    scores = iter([3.0, 1.0, 2.0])
    task = problem() | {"evaluate": lambda model: {"loss": next(scores)}}
    done = fit(**task, epochs=3, better=lambda new, best: new["loss"] < best["loss"])
    assert done.best == {"loss": 1.0, "epoch": 2} and type(done.best) is dict


def test_a_run_waits_on_while_there_is_hope():
    scores = iter([3.0, 1.0, 2.0, 1.0, 1.0, 1.0, 9.0])
    task = problem() | {"evaluate": lambda m: {"val": next(scores)}}
    done = fit(**task, epochs=7, patience=3, hopeful=lambda new: new["val"] == 2)
    assert done.epochs == 6 and done.best["epoch"] == 1


def test_each_epoch_says_how_long_it_trained_and_on_how_many_examples(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(mpnn.train.time, "perf_counter", lambda: clock[0])

    def ticking(function, seconds):
        def run(*given):
            clock[0] += seconds
            return function(*given)

        return run

    task = problem() | {"checkpoint": tmp_path / "run.pt"}
    task |= {"loss": ticking(task["loss"], 1.0), "evaluate": ticking(task["evaluate"], 100.0)}
    done = fit(**task, epochs=2)
    assert done.seconds == [2.0, 2.0] and done.examples == 16  # two batches of 8
    later = fit(**task | {"batches": task["batches"][:1]}, epochs=3)
    assert later.seconds == [2.0, 2.0, 1.0] and later.examples == 8


def test_an_epoch_that_fails_has_no_time():
    task = problem() | {"loss": lambda m, batch: m(batch[0]).sum() * float("nan")}
    with watched() as runs, pytest.raises(FloatingPointError):
        fit(**task, epochs=3)
    assert [run.seconds for run in runs] == [[]]


def test_whoever_watches_sees_every_run_and_no_other():
    with watched() as outer:
        first = fit(**problem(), epochs=1)
        with watched() as inner:
            second = fit(**problem(), epochs=1)
        third = fit(**problem(), epochs=1)
    fit(**problem(), epochs=1)
    assert [id(run) for run in outer] == [id(first), id(third)] and inner == [second]


def test_examples_are_graphs_else_rows_else_one():
    graph = mpnn.graphs.chain(3)
    x = torch.ones(5, 2)
    assert [examples(b) for b in (collate([graph, graph]), x, (x, x[:2]), [x], graph, (), torch.ones(()))] == [
        2, 5, 5, 5, 1, 1, 1,
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, 3, 4, 8, 20])
def test_shuffled_rows_come_once_each_epoch_with_what_belongs_to_them(size):
    x, y = torch.arange(8.0).view(8, 1), torch.arange(8) + 100
    batches, orders = Shuffled(size, x, y), []
    torch.manual_seed(0)
    for _ in range(2):
        epoch = list(batches)
        assert len(epoch) == len(batches) and [len(a) for a, _ in epoch[:-1]] == [size] * (len(epoch) - 1)
        assert all(torch.equal(a.flatten().long() + 100, b) for a, b in epoch)
        orders.append(torch.cat([b for _, b in epoch]).tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == y.tolist() and orders[0] != orders[1]
    torch.manual_seed(0)
    assert torch.cat([b for _, b in batches]).tolist() == orders[0]


class InAnyOrder:
    """Batches in an order that is drawn each time, whose number nobody knows before."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return (self.batches[k] for k in torch.randperm(len(self.batches)).tolist())


def test_a_run_over_batches_of_unknown_number_resumes_to_the_same_result(tmp_path):
    whole = problem()
    rows = [zip(*batch, strict=True) for batch in whole["batches"]]
    whole["batches"] = InAnyOrder([(x[None], y[None]) for batch in rows for x, y in batch])
    expected = fit(**whole, epochs=6)
    broken = problem() | {"batches": whole["batches"]}
    fit(**broken, epochs=3, checkpoint=tmp_path / "run.pt")
    again = problem(seed=5) | {"batches": whole["batches"], "evaluate": whole["evaluate"]}
    resumed = fit(**again, epochs=6, checkpoint=tmp_path / "run.pt")
    assert resumed.history == expected.history
    assert torch.equal(parameters(again["model"]), parameters(whole["model"]))


def test_an_epoch_without_a_score_is_not_the_best_for_ever():
    scores = iter([float("nan"), 1.0, float("nan"), 3.0, 2.0])
    done = fit(**problem() | {"evaluate": lambda m: {"val": next(scores)}}, epochs=5)
    assert done.best == {"val": 3.0, "epoch": 4}
