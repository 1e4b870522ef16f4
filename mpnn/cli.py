"""The command ``mpnn``: data sets, experiments and benchmarks.

::

    mpnn datasets            every data set: size, licence, source, and whether it is here
    mpnn datasets NAME       one data set with its published results
    mpnn run NAME [...]      scripts/NAME.py with the arguments that follow
    mpnn run all [...]       all experiments, one after the other; one whose data are missing does not stop the others
    mpnn bench NAME [...]    benchmarks/NAME.py with the arguments that follow
    mpnn bench all [...]     all of them, one after the other, each in a process of its own
    mpnn bench page          what they left in out/ as the page docs/benchmarks.md
    mpnn bench page DIR ...  with what runs left in other folders, too: the newest of each case
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import runpy
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from mpnn.datasets import catalog, store
from mpnn.datasets.catalog import Card, Result

TOOLS = {"levels", "results"}  # scripts that make pictures and tables for pages: no experiments, so not among all


class UnknownName(Exception):
    """No data set, experiment or benchmark has the name that was given; the message says which there are."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, or 2 where a name is unknown."""
    args = parser().parse_args(argv)
    try:
        status = args.command(args)
        sys.stdout.flush()
        return status
    except UnknownName as error:
        print(f"mpnn: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that nothing is flushed at exit
        return 0


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(prog="mpnn", description="Message passing on any graph under any schedule.")
    commands = out.add_subparsers(required=True, metavar="COMMAND")
    datasets = commands.add_parser("datasets", help="list the data sets, or show one")
    datasets.add_argument("name", nargs="?", help="the data set to show")
    datasets.set_defaults(command=show_datasets)
    for command, folder, what in (("run", "scripts", "experiment"), ("bench", "benchmarks", "benchmark")):
        sub = commands.add_parser(command, help=f"run an {what}" if what[0] == "e" else f"run a {what}")
        names = f"file name in {folder}/ without .py, or all; without it they are listed"
        sub.add_argument("name", nargs="?", help=names)
        sub.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="passed on as they are")
        sub.set_defaults(command=run_script, folder=folder)
    return out


def show_datasets(args: argparse.Namespace) -> int:
    if not args.name:
        print(list_text(list(catalog.cards().values())))
        return 0
    try:
        entry = catalog.card(args.name)
    except KeyError as error:
        raise UnknownName(error.args[0]) from None
    print(card_text(entry))
    return 0


def list_text(entries: Sequence[Card]) -> str:
    """One block a data set: name, size, licence; where it is or how to get it; source."""
    blocks = [f"{'NAME':<20} {'SIZE':>8}  LICENCE"]
    for entry in entries:
        blocks.append(f"{entry.name:<20} {size_text(entry.bytes):>8}  {entry.licence}")
        blocks += [f"    {state_text(entry)}", f"    {entry.source}"]
    return "\n".join(blocks)


def size_text(count: int) -> str:
    """Bytes in a unit a person reads.

    Example:
        >>> size_text(2_901_830), size_text(354), size_text(0)
        ('2.9 MB', '0.4 kB', '?')
    """
    if not count:
        return "?"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def state_text(entry: Card) -> str:
    """Where a data set is, or how to get it."""
    folder = store.find_folder(entry)
    if folder:
        return f"present: {folder}"
    if entry.downloads:
        return f"absent: downloaded by mpnn.datasets.{'load' if entry.reader else 'files'}({entry.name!r})"
    return f"absent: put the files at {store.home() / entry.folder} (`mpnn datasets {entry.name}` names them)"


def card_text(entry: Card) -> str:
    """Everything a card says."""
    lines = [entry.name, *textwrap.wrap(entry.description, 116), ""]
    lines += [f"task      {entry.task}", f"source    {entry.source}", f"licence   {entry.licence}"]
    lines += [f"size      {size_text(entry.bytes)}", f"state     {state_text(entry)}"]
    lines += [f"paper     {paper}" for paper in entry.papers]
    if entry.counts:
        lines.append("counts    " + ", ".join(f"{value:,} {key}" for key, value in entry.counts.items()))
    if not entry.reader:
        lines.append(f"loader    none yet; mpnn.datasets.files({entry.name!r}) gives the paths of the files")
    if entry.obtain:
        lines += ["", *textwrap.wrap(entry.obtain, 116)]
    lines += file_lines(entry) + result_lines(entry.results)
    return "\n".join(lines)


def file_lines(entry: Card) -> list[str]:
    if not entry.files:
        return []
    lines = ["", f"files, below {entry.folder}/ (bytes, sha256, address)"]
    for file in entry.files:
        lines.append(f"  {file.path}  {file.bytes}  {file.sha256}")
        if file.url:
            lines.append(f"    {file.url}")
    return lines


def result_lines(results: Sequence[Result]) -> list[str]:
    if not results:
        return ["", "published results: none was read"]
    lines = ["", "published results (model, metric, value, where it was read)"]
    for result in results:
        value = f"{result.value:g}" + ("" if result.spread is None else f" ± {result.spread:g}")
        note = f" ({result.note})" if result.note else ""
        lines.append(f"  {result.model:<24} {result.metric:<22} {value:<13} {result.source}{note}")
    return lines


def scripts(folder: Path) -> dict[str, Path]:
    """The runnable files of a folder by name; those that start with ``_`` are helpers."""
    return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}


def run_script(args: argparse.Namespace) -> int:
    folder = catalog.beside(args.folder)
    found = scripts(folder)
    if args.name is None:
        print("\n".join(f"{name:<20} {first_line(path)}" for name, path in found.items()) or nothing(folder))
        return 0
    name = args.name.removesuffix(".py")
    helper = folder / f"_{name}.py"
    if name in ("all", "page") and helper.exists():  # the folder says itself how all of it is run
        run_file(helper, args.rest)
        return 0
    if name == "all":
        return run_all([path for each, path in found.items() if each not in TOOLS], args.rest)
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        raise UnknownName(
            f"{args.name!r} is not in {folder}; expected one of {', '.join(found) or nothing(folder)}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    run_file(found[name], args.rest)
    return 0


def run_all(paths: Sequence[Path], arguments: Sequence[str]) -> int:
    """Runs files one after the other, also those after one that ends early, and says which ones did; status 1 then."""
    failed = []
    for path in paths:
        print(f"== {path.stem}", flush=True)
        try:
            run_file(path, arguments)
        except SystemExit as end:
            if end.code:
                print(end.code, file=sys.stderr)
                failed.append(path.stem)
    if failed:
        print(f"mpnn: ended early: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def nothing(folder: Path) -> str:
    return f"(none: {folder} has no scripts; benchmarks are in the repository and not in an installed package)"


def first_line(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return doc.splitlines()[0] if doc else ""


def run_file(path: Path, arguments: Sequence[str]) -> None:
    """Runs a file as ``python path *arguments`` would, in this process."""
    before = sys.argv, sys.path[:]
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before
