"""What all scripts share: options, runs over seeds, and result rows beside the published figure."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mpnn.train import Fit

__all__ = ["Options", "over_seeds", "report", "start"]

Config = TypeVar("Config", bound="Options")


@dataclass(frozen=True)
class Options:
    """Options that every script takes."""

    seeds: int = 10
    """Runs, with seeds 0, 1, ..."""
    epochs: int = 1000
    """The most epochs of a run."""
    patience: int = 100
    """Epochs without a better validation figure after which a run stops."""
    threads: int = 1
    """Threads of torch; one is quickest on small graphs."""
    json: Path | None = None
    """File for the results."""
    out: Path = Path("out")
    """Folder for pictures."""
    picture: bool = True
    """Whether to draw pictures."""
    smoke: bool = False
    """A run of seconds that shows that everything works, and claims nothing."""


def start(config_class: type[Config], run: Callable[[Config], list[dict]]) -> None:
    """Reads the command line, runs, and writes the rows; a missing data set ends the program with a plain message."""
    import torch
    import tyro

    config = tyro.cli(config_class, prog=f"mpnn run {Path(sys.argv[0]).stem}")
    torch.set_num_threads(config.threads)
    try:
        rows = run(config)
    except FileNotFoundError as error:
        sys.exit(str(error))
    rows = [row | {"command": _command()} for row in rows]
    if config.json:
        config.json.parent.mkdir(parents=True, exist_ok=True)
        config.json.write_text(json.dumps(rows, indent=1))


def _command() -> str:
    """The command line that makes the rows again."""
    arguments, kept = iter(sys.argv[1:]), []
    for argument in arguments:
        if argument in ("--json", "--out"):
            next(arguments)
        else:
            kept.append(argument)
    return shlex.join(["mpnn", "run", Path(sys.argv[0]).stem, *kept])


def markdown(rows: list[dict]) -> str:
    """Result rows as a table."""
    lines = [
        "| data set | model | metric | mean ± std | seeds | published | seconds | an epoch | command |",
        "|---|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        published = "–" if row["published"] is None else f"{row['published']:g}"
        epoch = f"{row['epoch_seconds']:.2g}" if row.get("epoch_seconds") else "–"
        lines.append(
            f"| {row['dataset']} | {row['model']} | {row['metric']} | {row['mean']:.2f} ± {row['std']:.2f} "
            f"| {row['seeds']} | {published} | {row['seconds']:.0f} | {epoch} | `{row['command']}` |"
        )
    return "\n".join(lines)


class Seconds(float):
    """Seconds that runs took, and what they spent on training, for :func:`report`.

    Attributes:
        costs: ``epoch_seconds``, the median over all epochs, without their evaluations; and ``examples_a_second`` in
            it (graphs, or rows of tensors). Empty if nothing was trained by :func:`mpnn.train.fit`.
    """

    costs: dict[str, float]

    def __new__(cls, seconds: float, trained: Sequence[Fit] = ()):
        self = super().__new__(cls, seconds)
        self.costs = {}
        if epochs := [epoch for run in trained for epoch in run.seconds]:
            epoch = statistics.median(epochs)
            costs = {"epoch_seconds": epoch, "examples_a_second": trained[-1].examples / epoch}
            self.costs = {name: float(f"{value:.3g}") for name, value in costs.items()}
        return self


def over_seeds(run: Callable[[int], float], config: Options, label: str) -> tuple[list[float], Seconds]:
    """``run(seed)`` for each seed, and the seconds it all took, with what an epoch of a seed's last training cost; the
    progress bar shows the mean so far."""
    from tqdm import tqdm

    from mpnn.train import seed_all, watched

    values: list[float] = []
    trained: list[Fit] = []
    began = time.perf_counter()
    with tqdm(range(config.seeds), desc=label) as bar:
        for seed in bar:
            seed_all(seed)
            with watched() as fits:
                values.append(run(seed))
            trained += fits[-1:]
            bar.set_postfix_str(f"mean {statistics.fmean(values):.3f}")
    return values, Seconds(time.perf_counter() - began, trained)


def report(
    experiment: str, dataset: str, model: str, metric: str, values: list[float], seconds: float,
    published: float | None, **more: Any,
) -> dict:  # fmt: skip
    """Prints one line and returns it as a row for the results file; what :func:`over_seeds` gives for seconds says what
    an epoch of training took and how many examples a second that is, too."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    row = {
        "experiment": experiment,
        "dataset": dataset,
        "model": model,
        "metric": metric,
        "mean": round(statistics.fmean(values), 3),
        "std": round(std, 3),
        "seeds": len(values),
        "published": published,
        "seconds": round(seconds, 1),
    }
    beside = "no published figure" if published is None else f"published {published}"
    score = f"{row['mean']:.2f} +- {std:.2f} over {len(values)} seeds"
    print(f"{dataset} {model}: {metric} {score} ({beside}), {seconds:.0f} s{said(seconds)}")
    return row | getattr(seconds, "costs", {}) | more


def said(seconds: float) -> str:
    """What an epoch costs, in words, if that is known.

    Example:
        >>> said(Seconds(9.0)), said(9.0)
        ('', '')
    """
    costs = getattr(seconds, "costs", {})
    return "; an epoch {epoch_seconds:g} s, {examples_a_second:g} examples a second".format(**costs) if costs else ""
