"""What all scripts share: options, checkpoints, runs over seeds, pictures, and rows beside the published figure."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mpnn.train import Fit

__all__ = ["Options", "canvas", "over_seeds", "report", "save", "spread", "start"]

Config = TypeVar("Config", bound="Options")

_used: set[Path] = set()  # the checkpoints of the command that runs


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
    compile: bool = False
    """Whether levels are run by compiled programs, `mpnn.engine(compile=True)`: for models of many narrow levels."""
    json: Path | None = None
    """File for the results; `mpnn run results FILE ...` makes tables of such files."""
    out: Path = Path("out")
    """Folder for pictures, and for checkpoints while runs last: the same command goes on where it was killed."""
    picture: bool = True
    """Whether to draw pictures."""
    smoke: bool = False
    """A run of seconds that shows that everything works, and claims nothing; has its own number of runs and epochs."""

    def recipe(self) -> dict[str, Any]:
        """The options that the result of one run of one model depends on: not which models are run and how often, nor
        what becomes of the results.

        Example:
            >>> Options(out=Path("here"), json=Path("a.json")).recipe()
            {'epochs': 1000, 'patience': 100, 'threads': 1, 'compile': False, 'smoke': False}
        """
        rest = ("model", "seeds", "json", "out", "picture")
        options = {name: value for name, value in asdict(self).items() if name not in rest}
        return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}

    def checkpoint(self, *run: object) -> Path:
        """The file of one of the command's runs, for :func:`mpnn.train.fit`: ``run`` says which one (model, seed; data
        set and task where the options name several). Other options lead to another folder, so that nobody goes on from
        what is not theirs. :func:`start` removes what was used once all results are written; what was killed stays.

        Example:
            >>> Options().checkpoint("tree lstm", 0).name
            'tree-lstm-0.pt'
            >>> Options(seeds=3).checkpoint(0) == Options().checkpoint(0) != Options(smoke=True).checkpoint(0)
            True
        """
        folder = self.out / f"{_script()}-{zlib.crc32(repr(self.recipe()).encode()):08x}"
        path = folder / ("-".join(map(str, run)).replace(" ", "-") + ".pt")
        _used.add(path)
        return path


def start(config_class: type[Config], run: Callable[[Config], list[dict]]) -> None:
    """Reads the command line, runs, shows and writes the rows and removes the checkpoints. A missing data set or
    package ends the program with a plain message."""
    import torch
    import tyro

    import mpnn

    if {"-h", "--help"} & set(sys.argv[1:]):  # paper, published figures, what was reached, in what time
        print(sys.modules[config_class.__module__].__doc__)
    config = tyro.cli(config_class, prog=f"mpnn run {_script()}")
    if config.seeds < 1:
        sys.exit(f"{_script()}: --seeds {config.seeds} asks for no run; expected 1 or more.")
    torch.set_num_threads(config.threads)
    _used.clear()
    try:
        with mpnn.engine(compile=config.compile):
            rows = run(config)
    except FileNotFoundError as error:
        sys.exit(str(error))
    except ImportError as error:
        sys.exit(_missing(error))
    except KeyboardInterrupt:
        if _used:
            print(f"\n{_script()}: stopped; the same command goes on from here", file=sys.stderr)
        raise
    if len(rows) > 1:
        print(f"\n{table(rows)}")
    rows = [row | {"command": _command()} for row in rows]
    if config.json:
        config.json.parent.mkdir(parents=True, exist_ok=True)
        config.json.write_text(json.dumps(rows, indent=1))
        print(f"(results: {config.json})")
    for path in _used:  # and no others: another model may be trained beside
        path.unlink(missing_ok=True)
        path.with_suffix(".part").unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()  # if it is empty


def _script() -> str:
    return Path(sys.argv[0]).stem


def _missing(error: ImportError) -> str:
    """What to say of a package of an extra that is not installed; of any other one the error is raised again."""
    if "pip install" in str(error):
        return str(error)
    if (error.name or "").split(".")[0] not in ("matplotlib", "PIL", "skimage", "sklearn"):
        raise error
    return (
        f"{_script()}: needs {error.name}, which is not installed: pip install 'mpnn[viz]', and run the same command "
        "again; what was trained is kept."
    )


def _command() -> str:
    """The command line that makes the rows again."""
    arguments, kept = iter(sys.argv[1:]), []
    for argument in arguments:
        if argument in ("--json", "--out"):
            next(arguments)
        else:
            kept.append(argument)
    return shlex.join(["mpnn", "run", _script(), *kept])


def rounded(value: float, digits: int) -> float:
    """A number with so many digits that count.

    Example:
        >>> rounded(114.2, 2), rounded(0.01234, 3)
        (110.0, 0.0123)
    """
    return float(f"{value:.{digits}g}")


HEAD = ("data set", "model", "metric", "mean ± std", "seeds", "published", "seconds", "an epoch")


def cells(row: dict) -> list[str]:
    """What stands in a row of a table under :data:`HEAD`."""
    published = "–" if row["published"] is None else f"{row['published']:g}"
    epoch = f"{rounded(row['epoch_seconds'], 2):g}" if row.get("epoch_seconds") else "–"
    figure = f"{row['mean']:.2f} ± {row['std']:.2f}"
    names = [row[name] for name in ("dataset", "model", "metric")]
    return [*names, figure, str(row["seeds"]), published, f"{row['seconds']:.0f}", epoch]


def markdown(rows: list[dict]) -> str:
    """Result rows as a table of a page, with their commands."""
    lines = [[*HEAD, "command"], *([*cells(row), f"`{row['command']}`"] for row in rows)]
    head, *rest = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, "|---|---|---|--:|--:|--:|--:|--:|---|", *rest])


def table(rows: list[dict]) -> str:
    """Result rows as a table of a terminal."""
    lines = [HEAD, *map(cells, rows)]
    width = [max(map(len, column)) for column in zip(*lines)]
    padded = [
        [cell.ljust(w) if k < 3 else cell.rjust(w) for k, (cell, w) in enumerate(zip(line, width))] for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in padded)


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
            self.costs = {name: rounded(value, 3) for name, value in costs.items()}
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
    row = {
        "experiment": experiment,
        "dataset": dataset,
        "model": model,
        "metric": metric,
        **spread(values),
        "seeds": len(values),
        "published": published,
        "seconds": round(seconds, 1),
    }
    beside = "no published figure" if published is None else f"published {published}"
    score = f"{row['mean']:.2f} +- {row['std']:.2f} over {len(values)} seed{'s' * (len(values) > 1)}"
    print(f"{dataset} {model}: {metric} {score} ({beside}), {seconds:.0f} s{said(seconds)}")
    return row | getattr(seconds, "costs", {}) | more


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Mean and standard deviation, which is 0 of one value.

    Example:
        >>> spread([1.0, 2.0, 3.5])
        {'mean': 2.167, 'std': 1.258}
    """
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.fmean(values), digits), "std": round(std, digits)}


def canvas(*shape: int, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes, as ``matplotlib.pyplot.subplots`` gives them, without a window."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(*shape, **options)


def save(figure: Any, path: Path, dpi: int = 120, **options: Any) -> Path:
    """Writes a figure of :func:`canvas` to a file, whose folder is made, and says so."""
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, **options)
    plt.close(figure)
    print(f"  (drawn: {path})")
    return path


def said(seconds: float) -> str:
    """What an epoch costs, in words, if that is known.

    Example:
        >>> said(Seconds(9.0)), said(9.0)
        ('', '')
    """
    costs = getattr(seconds, "costs", {})
    return "; an epoch {epoch_seconds:g} s, {examples_a_second:g} examples a second".format(**costs) if costs else ""
