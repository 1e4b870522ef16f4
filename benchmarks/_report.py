"""What a benchmark leaves behind: its results as JSON, as a table and as a picture, case by case.

A run of some cases replaces these in the files of the run before, and keeps the others, each with the date, machine,
versions and settings that it was taken with.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    "torch", "torch_geometric", "mpnn", "numpy", "networkx", "dgl", "torch_sparse", "torch_scatter", "jax", "jraph",
    "pytorch-tree-lstm", "torchfold",
)  # fmt: skip


@dataclass
class Row:
    """What was measured of a contender; times in seconds, memory in MB, ``foreign`` in cores.

    ``absent`` says why it is not here, ``failed`` what went wrong. ``checked`` is how far its tensors are from those of
    the first contender, over the largest value; None where they are not compared.
    """

    name: str
    role: str
    note: str = ""
    size: int | None = None
    absent: str = ""
    failed: str = ""
    checked: float | None = None
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    foreign: list[float] = field(default_factory=list)
    setup_mb: float | None = None
    step_mb: float | None = None

    @property
    def peak_mb(self) -> float | None:
        return None if self.setup_mb is None else self.setup_mb + self.step_mb


@dataclass
class Result:
    """A case as it was measured. ``head`` says when, where and how; ``skipped`` and ``failed`` why there is nothing."""

    name: str
    head: dict[str, Any]
    title: str = ""
    rows: list[Row] = field(default_factory=list)
    tolerance: float = 0.0
    axis: str = ""
    note: str = ""
    skipped: str = ""
    failed: str = ""
    seconds: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.name}, {counted(self.head['threads'], 'thread')}"

    @property
    def failures(self) -> list[str]:
        """What went wrong, in words."""
        found = [f"{self.key}: {self.failed}"] if self.failed else []
        return found + [f"{self.key}, {row.name}: {row.failed}" for row in self.rows if row.failed]


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


# Where and how ------------------------------------------------------------------------------------------------------


def header(threads: int, rounds: int, pace: str, command: str) -> dict[str, Any]:
    """Machine, versions and settings of a case that starts now; ``pace`` is full, quick or smoke."""
    return {
        "command": command,
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "threads": threads,
        "rounds": rounds,
        "pace": pace,
        "load": round(os.getloadavg()[0], 2),
    }


@cache
def commit() -> str:
    """The commit of this checkout, and whether files under version control differ from it; empty outside of one."""

    def git(*arguments: str) -> str:
        return subprocess.check_output(["git", *arguments], cwd=Path(__file__).parent, text=True, stderr=-3).strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "../mpnn", ".")
        return git("rev-parse", "--short", "HEAD") + " with changes" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return ""


def version(package: str) -> str:
    for name in (package, package.replace("_", "-")):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "absent"


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# Figures ------------------------------------------------------------------------------------------------------------


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.25, 0.75])
    return float(low), float(high)


def chosen(rows: Sequence[Row], role: str) -> Row | None:
    """The row of a role that others are compared with: the fastest peer, the first reference."""
    found = [row for row in rows if row.role == role and row.wall]
    if role == "reference":
        return found[0] if found else None
    return min(found, key=lambda row: median(row.wall), default=None)


def ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


@dataclass(frozen=True)
class Growth:
    """A power law through measured (size, value): ``value ~ size ** exponent``.

    Attributes:
        exponent: 1 is linear.
        error: its standard error; NaN for two sizes.
        used: how many sizes it is fitted to, the largest ones.
        given: how many there are.
        off: the farthest value from the line, as a share of it.
    """

    exponent: float
    error: float
    used: int
    given: int
    off: float


def growth(rows: Sequence[Row], value: Callable[[Row], float | None]) -> Growth | None:
    """The power law of a case; None for less than two sizes.

    Small sizes are left out where a fixed cost makes up more than a tenth, but never one of the three largest.
    """
    points = sorted((row.size, value(row)) for row in rows if row.wall and row.size and value(row))
    if len(points) < 2:
        return None
    size, found = np.array(points, dtype=float).T
    grown = max(min(3, len(points)), int((found >= 10 * fixed_cost(size, found)).sum()))
    x, y = np.log(size[-grown:]), np.log(found[-grown:])
    exponent, constant = np.polyfit(x, y, 1)
    away = y - (exponent * x + constant)
    spread = ((x - x.mean()) ** 2).sum()
    error = np.sqrt((away**2).sum() / (grown - 2) / spread) if grown > 2 else float("nan")
    return Growth(float(exponent), float(error), grown, len(points), float(np.expm1(np.abs(away).max())))


def fixed_cost(size: np.ndarray, found: np.ndarray) -> float:
    """The part that does not grow: a in a + b size, fitted to the relative differences; at least 0."""
    (a, _), *_ = np.linalg.lstsq(np.stack([1 / found, size / found], axis=1), np.ones_like(found), rcond=None)
    return max(0.0, float(a))


def time_of(row: Row) -> float:
    return min(row.cpu)


def slopes(rows: Sequence[Row], axis: str = "size") -> str:
    """How time and memory grow with size, in words."""
    parts = []
    for what, value in (("processor time", time_of), ("memory of a step", lambda row: row.step_mb)):
        law = growth([row for row in rows if row.role == "mpnn"], value)
        if law:
            error = "" if law.error != law.error else f" ± {law.error:.2f}"
            sizes = f"{law.used} of {law.given} sizes, at most {law.off:.0%} off the line"
            parts.append(f"{what} as {axis} to the power {law.exponent:.2f}{error} ({sizes})")
    bare = growth([row for row in rows if row.role == "reference"], time_of)
    parts += [f"processor time of the reference to the power {bare.exponent:.2f}"] if bare else []
    return f"Grows: {'; '.join(parts)}." if parts else "Too few sizes for a slope."


def number(value: float | None, digits: int = 3) -> str:
    """Three digits, without an exponent; '-' for nothing."""
    if value is None or value != value:
        return "-"
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


# Tables -------------------------------------------------------------------------------------------------------------

COLUMNS = (
    "contender", "wall ms", "IQR", "min", "CPU ms", "x best peer", "x best peer, CPU", "x reference", "us an item",
    "step MB", "set-up MB", "peak x best peer", "foreign cores", "notes",
)  # fmt: skip


def table(rows: Sequence[Row], rounds: int = 0) -> list[str]:
    """Rows as markdown, fastest first, absent ones last; a row with fewer turns than rounds says so."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|--:" * (len(COLUMNS) - 2) + "|---|"]
    peer, floor = chosen(rows, "peer"), chosen(rows, "reference")
    for row in sorted(rows, key=lambda row: median(row.wall) if row.wall else float("inf")):
        name = f"**{row.name}**" if row.role == "mpnn" else row.name + " (reference)" * (row.role == "reference")
        lines.append(f"| {name} | " + " | ".join(cells(row, peer, floor, rounds)) + " |")
    return lines


def cells(row: Row, peer: Row | None, floor: Row | None, rounds: int) -> list[str]:
    if not row.wall:
        reason = f"**failed: {row.failed}**" if row.failed else f"absent: {row.absent}"
        return ["-"] * (len(COLUMNS) - 2) + [reason.replace("|", "/")]
    wall, cpu, (low, high) = median(row.wall), median(row.cpu), quartiles(row.wall)
    base = (median(peer.wall), median(peer.cpu), peer.peak_mb) if peer else (None,) * 3
    values = [wall * 1e3, None, min(row.wall) * 1e3, cpu * 1e3, ratio(wall, base[0]), ratio(cpu, base[1])]
    values += [ratio(wall, floor and median(floor.wall)), row.size and wall / row.size * 1e6]
    values += [row.step_mb, row.setup_mb, ratio(row.peak_mb, base[2])]
    out = [number(value) for value in values]
    out[1] = f"{number(low * 1e3)}-{number(high * 1e3)}"
    few = counted(len(row.wall), "turn") if len(row.wall) < rounds else ""
    failed = f"**failed: {row.failed}**" if row.failed else ""
    notes = "; ".join(note for note in (row.note, few, failed) if note)
    return [*out, f"{median(row.foreign):.2f}", notes.replace("|", "/")]


def agreement(result: Result) -> str:
    """What was compared, and how close it was, in words."""
    compared = [row for row in result.rows if row.checked is not None]
    if len(compared) < 2:
        return ""
    worst = max(row.checked for row in compared)
    return (
        f"Checked first: {len(compared)} contenders returned the same tensors, to {worst:.1g} of the largest value "
        f"({result.tolerance:g} is allowed)."
    )


def section(result: Result, file: str) -> list[str]:
    """One case as markdown."""
    head, lines = result.head, [f"## {result.key}", ""]
    if result.skipped or result.failed:
        what = f"Skipped: {result.skipped}." if result.skipped else f"**Failed: {result.failed}**"
        return [*lines, what, ""]
    options = f"--cases '{result.name}' --threads {head['threads']}" + f" --{head['pace']}" * (head["pace"] != "full")
    command = head.get("command") or f"mpnn bench {file} {options}"  # results of before commands were kept have none
    taken = f"{head['date']}, {head['rounds']} rounds, load {head['load']} before, {result.seconds:.0f} s"
    taken += f", commit {head['commit']}" if head.get("commit") else ""
    lines += [result.title, "", f"`{command}`: {taken}. {agreement(result)}".rstrip(), ""]
    lines += [*table(result.rows, head["rounds"]), ""]
    if result.axis:
        lines += [slopes(result.rows, result.axis), ""]
    return lines + ([result.note, ""] if result.note else [])


def report(doc: str, file: str, results: Sequence[Result]) -> str:
    """All cases of a benchmark as markdown."""
    title, _, rest = doc.strip().partition("\n")
    lines = [f"# {file}: {title.rstrip('.')}", "", *([rest.strip(), ""] if rest.strip() else [])]
    machines = {}
    for result in results:
        versions = ", ".join(f"{name} {found}" for name, found in result.head["versions"].items())
        machines.setdefault(f"{result.head['machine']}; {versions}.", []).append(result.key)
    for where, keys in machines.items():
        lines += [where + (f" ({'; '.join(keys)})" if len(machines) > 1 else ""), ""]
    for result in results:
        lines += section(result, file)
    return "\n".join(lines)


# Pictures -----------------------------------------------------------------------------------------------------------

COLOURS = {"mpnn": "#c44e52", "peer": "#4c72b0", "reference": "#999999"}


def plot(path: Path, title: str, results: Sequence[Result]) -> None:
    """One panel a case: bars of times, or time and memory against size where a case is about growth."""
    from matplotlib.figure import Figure

    from mpnn.draw import write_small

    shown = [result for result in results if any(row.wall for row in result.rows)]
    if not shown:
        return
    growing = all(result.axis for result in shown)
    columns = min(3, len(shown)) if growing else 1
    heights = [8 if result.axis else len(result.rows) + 1.5 for result in shown]
    rows = -(-len(shown) // columns)
    size = (4.2 * columns, 3 * rows + 0.6) if growing else (9, 0.3 * sum(heights) + 1)
    figure = Figure(figsize=size, layout="constrained")
    shape = {} if growing else {"height_ratios": heights}
    panels = figure.subplots(rows, columns, squeeze=False, **shape).flatten()
    for panel, result in zip(panels, shown):
        (draw_growth if result.axis else draw_bars)(panel, result)
        panel.set_title(result.key, loc="left", fontsize=9)
        panel.tick_params(labelsize=7)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    figure.suptitle(title, fontsize=10)
    write_small(figure, path, dpi=100, colours=64)


def draw_bars(panel, result: Result) -> None:
    """Median wall times, with the quartiles as a whisker; ours red, bare products grey."""
    rows = sorted((row for row in result.rows if row.wall), key=lambda row: -median(row.wall))
    middle = np.array([median(row.wall) for row in rows]) * 1e3
    error = np.abs(np.array([quartiles(row.wall) for row in rows]).T * 1e3 - middle)
    panel.barh([row.name for row in rows], middle, xerr=error, color=[COLOURS[row.role] for row in rows])
    panel.set_xlabel("wall ms", fontsize=7)


def draw_growth(panel, result: Result) -> None:
    """Time (red, left) and memory of a step (blue, right) against size, both logarithmic; dashed lines have slope 1,
    the grey one is the time of bare products."""
    every = sorted((row for row in result.rows if row.wall and row.size), key=lambda row: row.size)
    rows, bare = ([row for row in every if row.role == role] for role in ("mpnn", "reference"))
    curves = [(panel, COLOURS["mpnn"], "CPU ms", lambda row: time_of(row) * 1e3)]
    if len(bare) > 1:
        panel.loglog(*zip(*((row.size, time_of(row) * 1e3) for row in bare)), "-", color=COLOURS["reference"])
    if any(row.step_mb for row in rows):
        curves.append((panel.twinx(), COLOURS["peer"], "step MB", lambda row: row.step_mb))
    for axes, colour, label, value in curves:
        points = [(row.size, value(row)) for row in rows if value(row)]
        if points:
            x, y = np.array(points, dtype=float).T
            axes.loglog(x, y, "o-", color=colour, markersize=3, linewidth=1)
            axes.loglog(x, y[-1] * x / x[-1], "--", color=colour, linewidth=0.6)
        axes.set_ylabel(label, color=colour, fontsize=7)
        few_ticks(axes.yaxis)
    few_ticks(panel.xaxis)
    panel.set_xlabel(result.axis, fontsize=7)


def few_ticks(axis) -> None:
    """Names powers of ten, and 2 and 5 of each where there are few, as 20, 5 k or 1 M, so that no two names meet."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    if axis.get_scale() != "log":  # nothing is shown along it
        return
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(EngFormatter())
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(labelsize=7)


# Files --------------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Result]:
    """The results of an earlier run by case; none if there is no such file, or one that cannot be read."""
    try:
        cases = json.loads(path.read_text())["cases"]
        return {k: Result(**{**case, "rows": [Row(**row) for row in case["rows"]]}) for k, case in cases.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write(folder: Path, name: str, doc: str, results: dict[str, Result], order: Sequence[str]) -> str:
    """JSON and markdown, with what was there of other cases; returns the markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"bench_{name}.json"
    kept = {key: result for key, result in (read(place) | results).items() if result.name in order}
    kept = dict(sorted(kept.items(), key=lambda item: (order.index(item[1].name), item[1].head["threads"])))
    title = doc.strip().splitlines()[0].rstrip(".")
    cases = {key: asdict(result) for key, result in kept.items()}
    place.write_text(json.dumps({"title": title, "doc": doc, "cases": cases}, indent=1))
    text = report(doc, name, list(kept.values()))
    (folder / f"bench_{name}.md").write_text(text)
    return text


def picture(folder: Path, name: str) -> None:
    """The picture of what is written."""
    place = folder / f"bench_{name}.json"
    if place.exists():
        title = json.loads(place.read_text())["title"]
        plot(folder / f"bench_{name}.png", title, list(read(place).values()))
