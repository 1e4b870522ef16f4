"""What the benchmarks share: contenders are checked against each other, then timed by turns, then weighed alone.

A benchmark file maps names to functions that build a :class:`Case`, and calls :func:`main`. A case has contenders; a
contender is a function that sets up (weights, transposes, whatever is done once) and returns a step. A step does the
work that is timed and returns the tensors on which all contenders must agree.

Everything runs in one process: all contenders are set up and warmed up, then timed in rounds, in a new order each
round, so that a drifting machine hurts all alike. Wall time and processor time (all threads, child processes too) are
taken. A turn during which other processes used more than ``CALM`` cores is tried again, and the least disturbed try
counts, not the fastest. Peak memory is measured apart, each contender in a process of its own: the highest resident
size during two steps, less the resident size after set-up.

What cannot be imported is reported as absent; what raises, disagrees or takes too long as failed, with the reason; the
others go on. Tables are written after each case.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib
import multiprocessing
import os
import random
import resource
import shlex
import signal
import sys
import tempfile
import threading
import time
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import Result, Row, growth, header, median, picture, report, table, write
from torch import Tensor
from tqdm import tqdm

import mpnn

__all__ = ["Absent", "Case", "Contender", "Row", "Step", "cached", "chung_lu", "growth", "main", "peer", "table"]

CALM = 0.15  # cores that other processes may use during a turn that counts
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
    """Contenders that do the same work.

    Args:
        title: what is done, on how much.
        contenders: the first that agrees is what the others are compared with.
        tolerance: the largest difference over the largest value.
        slope: whether contenders are the same work at several sizes, to see how it grows; ``axis`` names the size.
        memory: whether contenders are weighed.
        note: printed below the table.
        patience: seconds that the set-up of a contender may take, where that is more than it may by default.
    """

    title: str
    contenders: list[Contender]
    tolerance: float = 2e-4
    slope: bool = False
    memory: bool = True
    axis: str = ""
    note: str = ""
    patience: float = 0.0


def on_engine(make: Callable[[], Step], name: str | None = None, **options: bool) -> Step:
    """A step inside ``mpnn.engine``."""
    step = make()

    def forced():
        with mpnn.engine(name, **options):
            return step()

    return forced


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


def calmest(step: Step, least: float, tries: int) -> tuple[float, float, float]:
    """The least disturbed of a few turns; the first calm one ends the search."""
    tried = []
    while not tried or (tried[-1][2] > CALM and len(tried) < tries):
        tried.append(turn(step, least))
    return min(tried, key=lambda t: t[2])


# Time limits --------------------------------------------------------------------------------------------------------


class TimeUp(Exception):
    """A part of a run took longer than it may."""


@contextlib.contextmanager
def time_limit(seconds: float):
    """Raises :class:`TimeUp` inside the block after so many seconds, where the system has such alarms."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_):
        raise TimeUp(f"it took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)  # again after 5 s, should something have swallowed the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def noted(row: Row):
    """What keeps a contender from running goes into its row, and the others go on."""
    try:
        yield
    except (Absent, ImportError) as reason:
        row.absent = one_line(reason)
    except (Disagreement, TimeUp) as error:
        row.failed = one_line(error)
    except Exception as error:  # whatever a library raises is a result here, and told in the table
        row.failed = f"{type(error).__name__}: {one_line(error)}"


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


# One case -----------------------------------------------------------------------------------------------------------


def set_up(case: Case, rows: list[Row], limit: float, bar: tqdm) -> dict[str, Step]:
    """Sets up and warms up all contenders that can be here, and sees that they agree."""
    steps, first = {}, None
    for contender, row in zip(case.contenders, rows, strict=True):
        bar.set_postfix_str(contender.name)
        with noted(row), time_limit(limit):
            if contender.needs > free_gb():
                raise Absent(f"needs {contender.needs:g} GB of free memory, and {free_gb():.1f} GB are free")
            step = contender.make()
            row.note = contender.note  # making it may have something to tell
            got = step()
            if contender.agrees:
                first = first or (contender.name, list(got))
                row.checked = compare(*first, contender.name, got, case.tolerance)
            steps[contender.name] = step
        bar.update()
    return steps


def compare(name: str, expected: Sequence[Tensor], other: str, got: Sequence[Tensor], tolerance: float) -> float:
    """How far the tensors of two contenders are apart, over the largest value.

    Raises:
        Disagreement: by more than rounding explains, or there are others.
    """
    if len(expected) != len(got):
        raise Disagreement(
            f"{other} returned {len(got)} tensors, but {name} {len(expected)}; return the same ones in the same order."
        )
    furthest = 0.0
    for place, (a, b) in enumerate(zip(expected, got, strict=True)):
        if a.shape != b.shape:
            raise Disagreement(
                f"tensor {place} of {other} has shape {tuple(b.shape)}, but that of {name} {tuple(a.shape)}."
            )
        a, b = a.detach().double(), b.detach().double()
        scale = max(float(a.abs().max()) if a.numel() else 0.0, 1e-30)
        worst = float((a - b).abs().max()) if a.numel() else 0.0
        if not worst <= tolerance * scale:
            raise Disagreement(
                f"tensor {place} of {other} differs from that of {name} by {worst:.3g}; values reach {scale:.3g}, "
                f"and at most {tolerance:g} of that was expected. Give both the same weights and the same formula."
            )
        furthest = max(furthest, worst / scale)
    return furthest


def measure(case: Case, pace: Pace, bar: tqdm) -> list[Row]:
    """Times all contenders by turns, in a new order each round; one that has used up its share of time sits out."""
    rows = [Row(c.name, c.role, c.note, c.size) for c in case.contenders]
    steps = set_up(case, rows, max(3 * pace.limit, case.patience), bar)
    of = {row.name: row for row in rows}
    order, used, shuffle = list(steps), dict.fromkeys(steps, 0.0), random.Random(0)
    gc.collect()
    for _ in range(pace.rounds):
        shuffle.shuffle(order)
        for name in order:
            bar.set_postfix_str(name)
            if not of[name].failed and used[name] < pace.limit / len(order):
                used[name] += take_turn(steps[name], of[name], pace)
            bar.update()
    return rows


def take_turn(step: Step, row: Row, pace: Pace) -> float:
    """Adds a turn to a row; returns how long that took."""
    began = time.perf_counter()
    with noted(row), time_limit(3 * pace.limit):
        wall, cpu, foreign = calmest(step, pace.least, pace.tries)
        row.wall.append(wall)
        row.cpu.append(cpu)
        row.foreign.append(foreign)
    return time.perf_counter() - began


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


def give_back() -> None:
    """Returns what was freed to the system, where the C library can."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def weigh(make: Callable[[], Step], trimmed: bool = False) -> dict[str, float]:
    """Sets up and runs two steps in this process: resident MB after set-up, and how far a step rises above.

    What set-up has freed, but not given back, a step can use without rising. Where growth is looked at, which that
    would hide at small sizes, it is given back before.
    """
    run = make()
    gc.collect()
    if trimmed:
        give_back()
    forget_peak()
    before = status_mb("VmRSS") or peak_mb()
    run()
    run()
    return {"setup_mb": before, "step_mb": max(0.0, peak_mb() - before)}


class Scales:
    """Weighs contenders, each in a process of its own.

    These are copies of one that is split off before anything runs: they need not import everything again, and nothing
    of an earlier case is in their memory.
    """

    def __init__(self, cases: dict[str, Callable[[bool], Case]], smoke: bool):
        self.cases, self.smoke, self.process = cases, smoke, 0
        if not hasattr(os, "fork"):
            return
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = os.fork()
        if not self.process:
            self.pipe.close()
            self._serve(theirs)
        theirs.close()

    def weigh(self, case: str, row: Row, threads: int, limit: float) -> None:
        """Puts what was found into the row."""
        if not self.process:
            return
        try:
            self.pipe.send((case, row.name, threads, limit))
            found = self.pipe.recv()
        except (EOFError, OSError) as error:
            found = {"lost": one_line(error) or type(error).__name__}
        if "lost" in found:
            row.note = "; ".join(filter(None, [row.note, f"not weighed: {found['lost']}"]))
        else:
            row.setup_mb, row.step_mb = found["setup_mb"], found["step_mb"]

    def close(self) -> None:
        if self.process:
            self.pipe.close()
            os.waitpid(self.process, 0)

    def _serve(self, pipe) -> None:
        """The process that is split off: for each request another copy of it, which answers and ends."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            try:
                request = pipe.recv()
            except EOFError:
                os._exit(0)
            copy = os.fork()
            if not copy:
                pipe.send(self._found(*request))
                os._exit(0)
            _, status = os.waitpid(copy, 0)
            if status:
                pipe.send({"lost": f"its process ended with status {os.waitstatus_to_exitcode(status)}"})

    def _found(self, case: str, name: str, threads: int, limit: float) -> dict:
        torch.set_num_threads(threads)
        try:
            found = self.cases[case](self.smoke)
            (contender,) = (c for c in found.contenders if c.name == name)
            with time_limit(limit):
                return weigh(contender.make, found.slope)
        except Exception as error:
            return {"lost": f"{type(error).__name__}: {one_line(error)}"}


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


# Command ------------------------------------------------------------------------------------------------------------


@dataclass
class Pace:
    """How long is measured: turns of each contender, least seconds of a turn, tries of a turn that was disturbed, and
    seconds for a case (shared by its contenders, who have one turn in any case). A set-up with its first step, and a
    turn, are stopped after three times as long, and what needs a quarter of it for a step is not weighed.
    """

    name: str
    rounds: int
    least: float
    tries: int
    limit: float


PACES = {
    "full": Pace("full", 7, 0.3, 4, 300.0),
    "quick": Pace("quick", 5, 0.1, 2, 20.0),
    "smoke": Pace("smoke", 2, 0.0, 1, 60.0),
}


def arguments(doc: str, names: Sequence[str], threads: Sequence[int]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc.strip().splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="everything tiny: shows that it runs, measures nothing")
    parser.add_argument("--quick", action="store_true", help="shorter and fewer turns, and at most 20 s a case")
    parser.add_argument("--rounds", type=int, help="turns of each contender (7; 5 with --quick, 2 with --smoke)")
    parser.add_argument("--limit", type=float, help="seconds to time a case for (300; 20 with --quick)")
    given = " ".join(map(str, threads))
    parser.add_argument("--threads", type=int, nargs="+", help=f"torch threads ({given}; 1 with --smoke)")
    parser.add_argument("--cases", nargs="+", choices=names, default=list(names), metavar="CASE", help=", ".join(names))
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="do not weigh contenders")
    parser.add_argument("--out", type=Path, help="folder for JSON, markdown and picture (out; out/smoke with --smoke)")
    options = parser.parse_args()
    pace = PACES["smoke" if options.smoke else "quick" if options.quick else "full"]
    options.threads = options.threads or ([1] if options.smoke else list(threads))
    options.pace = replace(pace, rounds=options.rounds or pace.rounds, limit=options.limit or pace.limit)
    options.out = options.out or Path("out/smoke" if options.smoke else "out")
    return options


def command_of(file: str, name: str, threads: int, options: argparse.Namespace) -> str:
    """What measures one case again as it was measured."""
    words = ["mpnn", "bench", file, "--cases", name, "--threads", str(threads)]
    pace, usual = options.pace, PACES[options.pace.name]
    words += [f"--{pace.name}"] * (pace.name != "full") + ["--no-memory"] * (not options.memory)
    for option, value, default in (("rounds", pace.rounds, usual.rounds), ("limit", pace.limit, usual.limit)):
        words += [f"--{option}", f"{value:g}"] if value != default else []
    return shlex.join(words)


def run_case(name: str, build: Callable, threads: int, options: argparse.Namespace, scales, file: str) -> Result:
    """Times a case, then weighs its contenders; a case without its data, or that cannot be built, is only named."""
    pace, command = options.pace, command_of(file, name, threads, options)
    result, began = Result(name, header(threads, pace.rounds, pace.name, command)), time.perf_counter()
    torch.set_num_threads(threads)
    try:
        case = build(options.smoke)
    except Absent as reason:
        result.skipped = one_line(reason)
        return result
    except Exception as error:  # told in the report; the other cases go on
        result.failed = f"{type(error).__name__}: {one_line(error)}"
        return result
    result.title, result.tolerance, result.note = case.title, case.tolerance, case.note
    result.axis = case.axis or "size" * case.slope
    with tqdm(total=len(case.contenders) * (1 + pace.rounds), desc=result.key, file=sys.stderr, leave=False) as bar:
        result.rows = measure(case, pace, bar)
    weighed = [row for row in result.rows if row.wall and median(row.wall) < pace.limit / 4]
    weighed = weighed if scales and case.memory else []
    for row in tqdm(weighed[:1] if options.smoke else weighed, f"{name}, memory", file=sys.stderr, leave=False):
        scales.weigh(name, row, threads, max(3 * pace.limit, case.patience))
    result.seconds = time.perf_counter() - began
    return result


def main(file: str, doc: str, cases: dict[str, Callable[[bool], Case]], threads: Sequence[int] = (2,)) -> None:
    """Runs the cases of a benchmark file as its command line asks; what went wrong is said at the end.

    Args:
        file: the benchmark's ``__file__``.
        doc: its docstring; the first line is the title.
        cases: functions that build a case; they are given whether to be tiny.
        threads: how many threads it is run on, one after the other.
    """
    options = arguments(doc, list(cases), threads)
    warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")
    with contextlib.ExitStack() as stack:
        if CACHE not in os.environ:
            os.environ[CACHE] = stack.enter_context(tempfile.TemporaryDirectory())
            stack.callback(os.environ.pop, CACHE)
        scales = Scales(cases, options.smoke) if options.memory else None
        if scales:
            stack.callback(scales.close)
        stack.callback(picture, options.out, Path(file).stem)
        results = {}
        for name in options.cases:
            for count in options.threads:
                result = run_case(name, cases[name], count, options, scales, Path(file).stem)
                results[result.key] = result  # written at once: a run that is stopped keeps what it has
                write(options.out, Path(file).stem, doc, results, list(cases))
    print(report(doc, Path(file).stem, list(results.values())))
    failures = [failure for result in results.values() for failure in result.failures]
    if failures:
        raise SystemExit("\n".join([f"{Path(file).stem}: {len(failures)} failed.", *failures]))
