"""One training loop for all scripts, on ignite's engine: early stopping, the best state, checkpoints, progress.

Whole-graph training is the case of one batch an epoch.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Fit", "Shuffled", "fit", "seed_all", "watched"]

SAVE_EVERY = 1.0  # seconds of training that a kill may lose: to save takes as long as a short epoch does

_watched: ContextVar[list[Fit] | None] = ContextVar("watched", default=None)


@dataclass
class Fit:
    """What :func:`fit` returns.

    Attributes:
        best: the metrics of the best epoch, and ``"epoch"`` (from 1).
        history: the metrics of every epoch, by name.
        epochs: epochs run.
        seconds: how long each epoch took, without its evaluation.
        examples: what an epoch goes through: graphs, or rows where batches are tensors.
    """

    best: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    epochs: int = 0
    seconds: list[float] = field(default_factory=list)
    examples: int = 0


@contextmanager
def watched() -> Iterator[list[Fit]]:
    """Collects what every :func:`fit` within returns, so that its costs can be told without being handed on.

    Example:
        >>> with watched() as runs:
        ...     pass
        >>> runs
        []
    """
    runs: list[Fit] = []
    token = _watched.set(runs)
    try:
        yield runs
    finally:
        _watched.reset(token)


def examples(batch: Any) -> int:
    """How many examples a batch has: its graphs; else the rows of the tensor, or of the first of several; else one.

    Example:
        >>> examples(torch.ones(4, 2)), examples((torch.ones(4, 2), torch.ones(4))), examples("a graph")
        (4, 4, 1)
    """
    if hasattr(batch, "num_graphs"):
        return int(batch.num_graphs)
    first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    return len(first) if isinstance(first, Tensor) and first.dim() else 1


class Shuffled:
    """The rows of tensors in batches, in a new order each epoch; drawn from torch's own generator, whose state
    checkpoints keep.

    Args:
        size: rows of a batch; the last one may have fewer.
        tensors: with equally many rows; a batch is a tuple of some of them, of each tensor the same.

    Example:
        >>> x = torch.arange(5)
        >>> batches = Shuffled(2, x, 10 * x)
        >>> len(batches), sum(int((y - x).sum()) for x, y in batches)
        (3, 90)
    """

    def __init__(self, size: int, *tensors: Tensor):
        self.size, self.tensors = size, tensors

    def __len__(self) -> int:
        return -(-len(self.tensors[0]) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for some in torch.randperm(len(self.tensors[0])).split(self.size):
            yield tuple(tensor[some] for tensor in self.tensors)


def seed_all(seed: int) -> None:
    """Seeds Python, numpy and torch."""
    from ignite.utils import manual_seed

    manual_seed(seed)


class _Metrics(dict):
    """What an evaluation gave, for the rules that go by it."""

    def __missing__(self, name: str) -> float:
        given = f"only {', '.join(map(repr, self))}" if self else "nothing"
        raise ValueError(
            f"fit: the metric {name!r} is asked for, but evaluate returned {given}. Return {name!r} too, or pass "
            "better=, a rule that goes by what there is, as lambda new, best: new['loss'] < best['loss']."
        )


def _higher(new: dict[str, float], best: dict[str, float]) -> bool:
    return new["val"] > best["val"] or (math.isnan(best["val"]) and not math.isnan(new["val"]))


def fit(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    evaluate: Callable[[nn.Module], dict[str, float]],
    optimizer: torch.optim.Optimizer,
    epochs: int,
    better: Callable[[dict[str, float], dict[str, float]], bool] = _higher,
    patience: int | None = None,
    hopeful: Callable[[dict[str, float]], bool] = lambda new: False,
    clip: float | None = None,
    schedulers: Iterable[Any] = (),
    checkpoint: str | Path | None = None,
    progress: Callable[[dict[str, float]], None] | None = None,
    result: Fit | None = None,
) -> Fit:
    """Trains, keeps the parameters of the best epoch, and puts them back at the end.

    Args:
        model: left in evaluation mode, with the parameters of the best epoch.
        batches: iterated once an epoch.
        loss: the loss of a batch; the model is in training mode.
        evaluate: a dict of metrics after an epoch, with ``"val"`` unless ``better`` is given; the model is in
            evaluation mode and no gradient is recorded.
        optimizer: its parameters are the model's.
        epochs: the most to run.
        better: whether new metrics are better than the best so far; by default a higher ``"val"``, or one for nan.
        patience: epochs without anything better after which to stop.
        hopeful: whether new metrics are reason to wait ``patience`` epochs more, without being better.
        clip: the largest norm of the gradient; larger ones are scaled down to it.
        schedulers: stepped after each epoch.
        checkpoint: file to save to after each epoch, once a second at the most, and after the last; and to resume from
            if it is there: model, optimizer, schedulers, best state, history and random state, so that the result is
            that of an uninterrupted run.
        progress: called with the metrics after each epoch.
        result: what to write into and return, for those who look at the history on the way; unless given, a new one.

    Raises:
        FloatingPointError: the loss is nan or infinite; the message names the epoch.
        ValueError: the checkpoint is of another model, optimizer or number of schedulers; the message names its file.
            Or a metric is asked for that ``evaluate`` does not return.

    Example:
        >>> model, x = nn.Linear(1, 1), torch.ones(4, 1)
        >>> mse = lambda m, x: (m(x) - 3).square().mean()
        >>> sgd = torch.optim.SGD(model.parameters(), 0.1)
        >>> done = fit(model, [x], mse, lambda m: {"val": -float(mse(m, x))}, sgd, 50)
        >>> done.epochs, bool(mse(model, x) < 1e-3)
        (50, True)
    """
    from ignite.engine import Engine, Events

    result, schedulers = Fit() if result is None else result, list(schedulers)
    best_state = copy.deepcopy(model.state_dict())
    waited, began, saved = 0, 0.0, time.perf_counter()
    if (runs := _watched.get()) is not None:
        runs.append(result)

    def step(_, batch):
        result.examples += examples(batch)
        optimizer.zero_grad(set_to_none=True)
        value = loss(model, batch)
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"fit: the loss is {value.item()} in epoch {trainer.state.epoch}; "
                "lower the learning rate, or pass clip=1.0."
            )
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()

    trainer = Engine(step)

    @trainer.on(Events.EPOCH_STARTED)
    def _train(_):
        nonlocal began
        model.train()
        result.examples, began = 0, time.perf_counter()

    @trainer.on(Events.EPOCH_COMPLETED)
    def _evaluate(engine):
        nonlocal waited, saved
        result.seconds.append(time.perf_counter() - began)
        model.eval()
        with torch.no_grad():
            metrics = _Metrics((name, float(value)) for name, value in evaluate(model).items())
        for name, value in metrics.items():
            result.history.setdefault(name, []).append(value)
        waited = 0 if hopeful(metrics) else waited + 1
        result.epochs = engine.state.epoch
        ahead = better(metrics, result.best or metrics)  # of the first epoch too, which may lack what it goes by
        if ahead or not result.best:
            result.best, waited = {**metrics, "epoch": engine.state.epoch}, 0
            best_state.update({name: value.detach().clone() for name, value in model.state_dict().items()})
        for scheduler in schedulers:
            scheduler.step()
        stop = patience is not None and waited >= patience
        last = stop or result.epochs == epochs
        if checkpoint and (last or time.perf_counter() - saved >= SAVE_EVERY):
            _save(Path(checkpoint), engine, model, optimizer, schedulers, best_state, result, waited)
            saved = time.perf_counter()
        if progress:
            progress(metrics)
        if stop:
            engine.terminate()

    if checkpoint and Path(checkpoint).exists():
        length = _length(batches)  # first: to count may draw random numbers, whose state is put back then
        waited, done = _resume(Path(checkpoint), model, optimizer, schedulers, best_state, result)
        trainer.load_state_dict({"epoch": done, "epoch_length": length, "max_epochs": epochs})
        if done >= epochs or (patience is not None and waited >= patience):
            epochs = 0
    if epochs:
        trainer.run(batches, max_epochs=epochs)
    model.load_state_dict(best_state)
    model.eval()
    return result


def _length(batches: Iterable[Any]) -> int:
    return len(batches) if hasattr(batches, "__len__") else sum(1 for _ in batches)


def _save(path: Path, engine, model, optimizer, schedulers, best_state, result: Fit, waited: int) -> None:
    """Writes beside the file and then takes its place, so that a kill never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = {
        "epoch": engine.state.epoch,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedulers": [s.state_dict() for s in schedulers],
        "best_state": best_state,
        "best": result.best,
        "history": result.history,
        "seconds": result.seconds,
        "examples": result.examples,
        "waited": waited,
        "random": torch.get_rng_state(),
    }
    torch.save(saved, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def _resume(path: Path, model, optimizer, schedulers, best_state, result: Fit) -> tuple[int, int]:
    try:
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        _check_options(optimizer)
        for scheduler, state in zip(schedulers, saved["schedulers"], strict=True):
            scheduler.load_state_dict(state)
    except Exception as error:  # torch's own, which says what differs, but not where
        raise ValueError(
            f"fit: the checkpoint {path} is not of this run; expected the state of this model, its optimizer and its "
            "schedulers. Delete it, or pass another checkpoint=, to a script another --out. "
            f"{type(error).__name__}: {error}"
        ) from error
    best_state.update(saved["best_state"])
    result.best, result.history, result.epochs = saved["best"], saved["history"], saved["epoch"]
    result.seconds, result.examples = saved["seconds"], saved["examples"]
    torch.set_rng_state(saved["random"])
    return saved["waited"], saved["epoch"]


def _check_options(optimizer: torch.optim.Optimizer) -> None:
    """Raises if the optimizer has been given the options of one of another kind, which torch lets pass."""
    for group in optimizer.param_groups:
        if lost := optimizer.defaults.keys() - group.keys():
            raise ValueError(f"there is no {', '.join(sorted(lost))} for {type(optimizer).__name__}")
