"""What the benchmarks share: contenders are checked against each other, then timed by turns, then weighed alone.

A benchmark file maps names to functions that build a :class:`Case`, and calls :func:`main`. A case has contenders; a
contender is a function that sets up (weights, transposes, whatever is done once) and returns a step. A step does the
work that is timed and returns the tensors on which all contenders must agree.

Everything runs in one process: all contenders are set up and warmed up, then timed in rounds, in a new order each
round, so that a drifting machine hurts all alike. Wall time and processor time (all threads, child processes too) are
taken. A turn during which other processes used more than ``CALM`` cores is tried again, and the least disturbed try
counts, not the fastest. Peak memory is measured apart, each contender in a process of its own: the highest resident
size during two steps, less the resident size after set-up.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

CALM = 0.15  # cores that other processes may use during a turn that counts
TRIES = 4  # of a turn that was disturbed
CACHE = "MPNN_BENCH_CACHE"
Step = Callable[[], Sequence[Tensor]]


class Absent(Exception):
    """Raised by a contender's set-up, or by a case, that cannot run here; the text says why."""


class Disagreement(AssertionError):
    """Two contenders of a case computed different things."""


@dataclass
class Contender:
    """One way to do a case's work.

    Args:
        name: the row's name.
        make: sets up and returns the step; raises :class:`Absent` or ``ImportError`` where it cannot.
        role: ``"mpnn"``, ``"peer"`` or ``"reference"`` (what the machine needs for the bare products or copies).
        agrees: whether the step's tensors are compared with the other contenders'.
        size: number of nodes or edges that a step handles, for time and memory per item and for the slope.
        needs: GB of free memory without which it is left out.
        note: printed in the table.
    """

    name: str
    make: Callable[[], Step]
    role: str = "peer"
    agrees: bool = True
    size: int | None = None
    needs: float = 0.0
    note: str = ""


@dataclass
class Case:
    """Contenders that do the same work. ``tolerance`` is the largest difference over the largest value."""

    title: str
    contenders: list[Contender]
    tolerance: float = 2e-4
    slope: bool = False
    memory: bool = True


@dataclass
class Row:
    """What was measured of a contender; times in seconds, memory in MB, ``foreign`` in cores."""

    name: str
    role: str
    note: str = ""
    size: int | None = None
    absent: str = ""
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    foreign: list[float] = field(default_factory=list)
    setup_mb: float | None = None
    step_mb: float | None = None


# Peers --------------------------------------------------------------------------------------------------------------


def peer(module: str) -> types.ModuleType:
    """Imports a package that need not be there."""
    try:
        return load_dgl() if module == "dgl" else importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise Absent(f"{module} cannot be imported ({str(error).splitlines()[0]})") from error


def load_dgl() -> types.ModuleType:
    """DGL without its graphbolt library, which is built for a few torch versions only and not needed here."""
    os.environ.setdefault("DGLBACKEND", "pytorch")
    sys.modules.setdefault("dgl.graphbolt", types.ModuleType("dgl.graphbolt"))
    dgl = importlib.import_module("dgl")
    dgl.utils.set_num_threads(torch.get_num_threads())
    return dgl


# Clocks -------------------------------------------------------------------------------------------------------------


def cpu_time() -> float:
    """Processor seconds of this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def busy_time() -> float:
    """Core seconds in which the whole machine was busy; 0 where that is not told."""
    try:
        user, nice, system, _, _, irq, soft = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def turn(step: Step, least: float) -> tuple[float, float, float]:
    """Runs a step for at least so many seconds: wall and processor seconds a step, and cores that others used."""
    busy, cpu, wall, count = busy_time(), cpu_time(), time.perf_counter(), 0
    while not count or time.perf_counter() - wall < least:
        step()
        count += 1
    wall, cpu, busy = time.perf_counter() - wall, cpu_time() - cpu, busy_time() - busy
    return wall / count, cpu / count, max(0.0, (busy - cpu) / wall)


def calmest(step: Step, least: float) -> tuple[float, float, float]:
    """The least disturbed of a few turns; the first calm one ends the search."""
    tried = []
    while not tried or (tried[-1][2] > CALM and len(tried) < TRIES and least):
        tried.append(turn(step, least))
    return min(tried, key=lambda t: t[2])


# One case -----------------------------------------------------------------------------------------------------------


def set_up(case: Case, rows: list[Row], bar: tqdm) -> dict[str, Step]:
    """Sets up and warms up all contenders that can be here, and asserts that they agree."""
    steps, first = {}, None
    for contender, row in zip(case.contenders, rows, strict=True):
        bar.set_postfix_str(contender.name)
        try:
            if contender.needs > free_gb():
                raise Absent(f"needs {contender.needs:g} GB of free memory, and {free_gb():.1f} GB are free")
            step = contender.make()
            got = step()
        except (Absent, ImportError) as reason:
            row.absent = str(reason)
            continue
        if contender.agrees:
            first = first or (contender.name, got)
            compare(*first, contender.name, got, case.tolerance)
        steps[contender.name] = step
        bar.update()
    return steps


def compare(name: str, expected: Sequence[Tensor], other: str, got: Sequence[Tensor], tolerance: float) -> None:
    """Asserts that two contenders returned the same tensors, up to rounding."""
    if len(expected) != len(got):
        raise Disagreement(
            f"{other} returned {len(got)} tensors, but {name} {len(expected)}; return the same ones in the same order."
        )
    for place, (a, b) in enumerate(zip(expected, got, strict=True)):
        if a.shape != b.shape:
            raise Disagreement(
                f"tensor {place} of {other} has shape {tuple(b.shape)}, but that of {name} {tuple(a.shape)}."
            )
        a, b = a.detach().double(), b.detach().double()
        scale = float(a.abs().max()) if a.numel() else 0.0
        worst = float((a - b).abs().max()) if a.numel() else 0.0
        if not worst <= tolerance * max(scale, 1e-30):
            raise Disagreement(
                f"tensor {place} of {other} differs from that of {name} by {worst:.3g}; values reach {scale:.3g}, "
                f"and at most {tolerance:g} of that was expected. Give both the same weights and the same formula."
            )


def measure(case: Case, rounds: int, least: float, bar: tqdm) -> list[Row]:
    """Times all contenders by turns, in a new order each round."""
    rows = [Row(c.name, c.role, c.note, c.size) for c in case.contenders]
    steps = set_up(case, rows, bar)
    order, shuffle = list(steps), random.Random(0)
    of = {row.name: row for row in rows}
    gc.collect()
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            bar.set_postfix_str(name)
            wall, cpu, foreign = calmest(steps[name], least)
            of[name].wall.append(wall)
            of[name].cpu.append(cpu)
            of[name].foreign.append(foreign)
            bar.update()
    return rows


# Memory -------------------------------------------------------------------------------------------------------------


def free_gb() -> float:
    """Memory that is free or can be made so."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) / 2**20
    except (OSError, KeyError, ValueError):
        return float("inf")


def status_mb(name: str) -> float | None:
    """A line of ``/proc/self/status`` in MB; None where there is no such file."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines[name].split()[0]) / 1024
    except (OSError, KeyError):
        return None


def forget_peak() -> None:
    """Lets the high-water mark start from here, so that set-up's own peak does not hide the step's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """The high-water mark of the resident size. (``ru_maxrss`` alone would start at the size of the parent process.)"""
    peak = status_mb("VmHWM")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit if peak is None else peak


def weigh(step: Callable[[], Step]) -> dict[str, float]:
    """Sets up and runs two steps in this process: resident MB after set-up, and how far a step rises above."""
    run = step()
    gc.collect()
    forget_peak()
    before = status_mb("VmRSS") or peak_mb()
    run()
    run()
    return {"setup_mb": before, "step_mb": max(0.0, peak_mb() - before)}


def weigh_alone(file: str, case: str, row: Row, options: argparse.Namespace) -> None:
    """Weighs a contender in a process of its own."""
    command = [sys.executable, file, "--alone", case, row.name, "--threads", str(options.threads)]
    done = subprocess.run(command + ["--smoke"] * options.smoke, capture_output=True, text=True)
    if done.returncode:
        row.note += f" (not weighed: {done.stderr.strip().splitlines()[-1]})"
        return
    found = json.loads(done.stdout.strip().splitlines()[-1])
    row.setup_mb, row.step_mb = found["setup_mb"], found["step_mb"]


# Data ---------------------------------------------------------------------------------------------------------------


def cached(name: str, make: Callable[[], Any]) -> Any:
    """Data that the processes of one run share, so that it is built once."""
    folder = os.environ.get(CACHE)
    if not folder:
        return make()
    path = Path(folder) / f"{name}.pt"
    if not path.exists():
        torch.save(make(), path)
    return torch.load(path, weights_only=False)


def chung_lu(num_nodes: int, num_edges: int, seed: int = 0, exponent: float = 2.5) -> Tensor:
    """A directed graph with power-law degrees, without loops and double edges; ids carry no meaning: ``(2, E)``.

    Source: Chung & Lu 2002, doi:10.1007/PL00012580: an edge is as likely as the product of its ends' weights.
    Deviations: the number of edges is fixed, and in- and out-degree of a node share one weight.
    """
    generator = np.random.default_rng(seed)
    weight = (np.arange(num_nodes) + 10.0) ** (-1 / (exponent - 1))
    share = np.cumsum(weight) / weight.sum()
    name = generator.permutation(num_nodes)
    keys = np.empty(0, dtype=np.int64)
    while keys.size < num_edges:
        ends = np.searchsorted(share[:-1], generator.random((2, (num_edges - keys.size) * 4 // 3 + 100)))
        src, dst = name[ends[:, ends[0] != ends[1]]]
        keys = np.unique(np.concatenate([keys, src * num_nodes + dst]))
    keys = generator.permutation(keys)[:num_edges]
    return torch.from_numpy(np.stack([keys // num_nodes, keys % num_nodes]))


# Report -------------------------------------------------------------------------------------------------------------


def header(options: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions and settings."""
    versions = {"python": platform.python_version()}
    for name in ("torch", "torch_geometric", "torch_sparse", "dgl", "networkx", "numpy", "mpnn"):
        found = [p for p in (name, name.replace("_", "-")) if installed(p)]
        versions[name] = metadata.version(found[0]) if found else "absent"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": versions,
        "threads": options.threads,
        "rounds": options.rounds,
        "smoke": options.smoke,
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.25, 0.75])
    return float(low), float(high)


def best(rows: Sequence[Row], role: str, clock: str) -> float:
    """The smallest median of the rows of a role; nan without any. For references: that of the first."""
    found = [median(getattr(row, clock)) for row in rows if row.role == role and row.wall]
    if not found:
        return float("nan")
    return found[0] if role == "reference" else min(found)


def slope(rows: Sequence[Row], value: Callable[[Row], float | None]) -> float:
    """Exponent of a power law fitted through (size, value): 1 is linear."""
    points = [(row.size, value(row)) for row in rows if row.wall and value(row)]
    if len(points) < 2:
        return float("nan")
    x, y = np.log(np.array(points, dtype=float)).T
    return float(np.polyfit(x, y, 1)[0])


def number(value: float | None, digits: int = 3) -> str:
    """Three digits, without an exponent; '-' for nothing."""
    if value is None or value != value:
        return "-"
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


COLUMNS = (
    "contender", "wall ms", "IQR", "min", "CPU ms", "x best peer", "x best peer, CPU", "x reference", "us an item",
    "step MB", "set-up MB", "foreign cores", "notes",
)  # fmt: skip


def table(rows: Sequence[Row]) -> list[str]:
    """Rows as markdown, fastest first, absent ones last."""
    peer_wall, peer_cpu, floor = best(rows, "peer", "wall"), best(rows, "peer", "cpu"), best(rows, "reference", "wall")
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|--:" * (len(COLUMNS) - 2) + "|---|"]
    for row in sorted(rows, key=lambda row: median(row.wall) if row.wall else float("inf")):
        name = f"**{row.name}**" if row.role == "mpnn" else row.name + " (reference)" * (row.role == "reference")
        if row.absent:
            lines.append(f"| {name} |" + " - |" * (len(COLUMNS) - 2) + f" absent: {row.absent} |")
            continue
        wall, cpu = median(row.wall), median(row.cpu)
        low, high = quartiles(row.wall)
        values = [wall * 1e3, None, min(row.wall) * 1e3, cpu * 1e3, wall / peer_wall, cpu / peer_cpu, wall / floor]
        cells = [number(value) for value in values] + [number(wall / row.size * 1e6) if row.size else "-"]
        cells[1] = f"{number(low * 1e3)}-{number(high * 1e3)}"
        cells += [number(row.step_mb), number(row.setup_mb), f"{median(row.foreign):.2f}", row.note]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def slopes(rows: Sequence[Row]) -> str:
    """How time and memory grow with size, in words."""
    time_, memory = slope(rows, lambda row: min(row.cpu)), slope(rows, lambda row: row.step_mb)
    return f"Grows as size to the power {time_:.2f} in processor time and {memory:.2f} in memory (1 is linear)."


def report(title: str, head: dict[str, Any], results: dict[str, tuple[Case | str, list[Row]]]) -> str:
    """The whole result as markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
    lines = [
        f"# {title}",
        "",
        f"{head['date']}; {head['machine']}; {head['threads']} threads; {head['rounds']} rounds.",
    ]
    lines += [f"{versions}.", f"Load average {', '.join(map(str, head['load']))} at the start.", ""]
    for name, (case, rows) in results.items():
        lines += [f"## {name}", "", case.title if isinstance(case, Case) else f"Skipped: {case}.", ""]
        if rows:
            lines += table(rows) + [""]
        if isinstance(case, Case) and case.slope:
            lines += [slopes(rows), ""]
    return "\n".join(lines)


COLOURS = {"mpnn": "#c44e52", "peer": "#4c72b0", "reference": "#999999"}


def plot(path: Path, title: str, results: dict[str, tuple[Case | str, list[Row]]]) -> None:
    """One panel a case, one bar a contender: the median, with the quartiles as a whisker."""
    from matplotlib.figure import Figure

    shown = {name: [row for row in rows if row.wall] for name, (_, rows) in results.items()}
    shown = {name: rows for name, rows in shown.items() if rows}
    if not shown:
        return
    heights = [len(rows) + 1.5 for rows in shown.values()]
    figure = Figure(figsize=(9, 0.3 * sum(heights) + 1), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (name, rows) in zip(panels, shown.items(), strict=True):
        rows = sorted(rows, key=lambda row: -median(row.wall))
        middle = np.array([median(row.wall) for row in rows]) * 1e3
        spread = np.array([quartiles(row.wall) for row in rows]).T * 1e3
        error = np.abs(spread - middle)
        panel.barh([row.name for row in rows], middle, xerr=error, color=[COLOURS[row.role] for row in rows])
        panel.set_title(name, loc="left", fontsize=9)
        panel.tick_params(labelsize=7)
    panels[-1].set_xlabel("wall time of a step, ms (median, quartiles); red: mpnn, grey: bare products")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def write(folder: Path, name: str, title: str, head: dict, results: dict[str, tuple[Case | str, list[Row]]]) -> None:
    """JSON, markdown and picture."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = {
        key: {
            "title": case.title if isinstance(case, Case) else f"skipped: {case}",
            "rows": [asdict(row) for row in rows],
        }
        for key, (case, rows) in results.items()
    }
    (folder / f"bench_{name}.json").write_text(json.dumps({"title": title, **head, "cases": cases}, indent=1))
    (folder / f"bench_{name}.md").write_text(report(title, head, results))
    plot(folder / f"bench_{name}.png", title, results)


# Command ------------------------------------------------------------------------------------------------------------


def arguments(doc: str, names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="everything tiny: shows that it runs, measures nothing")
    parser.add_argument("--rounds", type=int, help="turns of each contender (7; 2 with --smoke)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (2)")
    parser.add_argument("--cases", nargs="+", choices=names, default=list(names), metavar="CASE", help=", ".join(names))
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="do not weigh contenders")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for JSON, markdown and picture (out)")
    parser.add_argument("--alone", nargs=2, metavar=("CASE", "CONTENDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.smoke else 7)
    return options


def run_alone(case: Case, name: str) -> None:
    """Weighs one contender here and prints what was found as JSON, on the last line."""
    (contender,) = (c for c in case.contenders if c.name == name)
    print(json.dumps(weigh(contender.make)))


def run_case(
    file: str, name: str, build: Callable[[bool], Case], options: argparse.Namespace
) -> tuple[Case | str, list[Row]]:
    """Times a case, then weighs its contenders; a case without its data is only named."""
    try:
        case = build(options.smoke)
    except Absent as reason:
        return str(reason), []
    with tqdm(total=len(case.contenders) * (1 + options.rounds), desc=name, file=sys.stderr, leave=False) as bar:
        rows = measure(case, options.rounds, 0.0 if options.smoke else 0.3, bar)
    weighed = [row for row in rows if row.wall] if options.memory and case.memory else []
    for row in tqdm(weighed[:1] if options.smoke else weighed, desc=f"{name}, memory", file=sys.stderr, leave=False):
        weigh_alone(file, name, row, options)
    return case, rows


def main(file: str, doc: str, cases: dict[str, Callable[[bool], Case]]) -> None:
    """Runs the cases of a benchmark file as its command line asks.

    Args:
        file: the benchmark's ``__file__``.
        doc: its docstring; the first line is the title.
        cases: functions that build a case; they are given whether to be tiny.
    """
    options = arguments(doc, list(cases))
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")
    if options.alone:
        return run_alone(cases[options.alone[0]](options.smoke), options.alone[1])
    head, title, results = header(options), doc.splitlines()[0].rstrip("."), {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE] = folder
        try:
            for name in options.cases:
                results[name] = run_case(file, name, cases[name], options)
                write(options.out, Path(file).stem, title, head, results)  # a run that is stopped keeps what it has
        finally:
            del os.environ[CACHE]
    print(report(title, head, results))
