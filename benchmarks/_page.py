"""Joins the tables of all benchmarks that were run to one page: ``docs/benchmarks.md``.

``mpnn bench page FOLDER ...`` first takes over the results that lie in these folders, however deep: of a case on as
many threads the newest, whatever run it is of; those of ``--smoke`` are left.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from _report import Result, chosen, counted, median, number, picture, ratio, read, report, write

INTRODUCTION = """# Benchmarks

Made by `mpnn bench page` from what runs of `mpnn bench` left behind, case by case: a case is shown as it was measured
last, and not all need be of one run. Each names its command, date, rounds, the load average before it and the commit;
each benchmark its machine and versions, and what is absent. With `--quick` turns are shorter and fewer. A load average
well above the number of threads means that other programs ran on the same cores: wall times say little then, processor
times and their ratios within a table more.

How it is measured: contenders of a case are checked against each other first (outputs and gradients), then timed by
turns in one process, in a new order each round. A turn is tried again while other processes use more than 0.15 cores;
what remained of them is "foreign cores". Wall and processor time (all threads) are medians; IQR are the quartiles of
wall time. "step MB" is the highest resident size in two steps less that after set-up, "set-up MB" the resident size
after set-up, measured in a process of its own for each contender; their sum is the peak. "x best peer" is to the
fastest peer, "x reference" to the bare products or copies that the work cannot do without. Compare within a table;
ratios below 1.2 between rows are noise on a busy machine.
"""


def take_over(folders: Iterable[Path], out: Path) -> None:
    """Puts the results that lie in other folders into ``out``, table and picture too."""
    files = [path for folder in folders for path in sorted(folder.rglob("bench_*.json"))]
    for name in sorted({path.stem.removeprefix("bench_") for path in files}):
        found = [(read(path), path) for path in [out / f"bench_{name}.json", *files] if path.stem == f"bench_{name}"]
        found.sort(key=lambda pair: len(pair[0]), reverse=True)  # the order of cases is that of the fullest
        results = [result for some, _ in found for result in some.values() if result.head["pace"] != "smoke"]
        newest = {result.key: result for result in sorted(results, key=date)}
        if newest:
            latest = max(found, key=lambda pair: max(map(date, pair[0].values()), default=""))[1]
            doc = json.loads(latest.read_text())["doc"]
            write(out, name, doc, newest, list(dict.fromkeys(result.name for result in results)))
            picture(out, name)


def date(result: Result) -> str:
    return result.head["date"]


def make(folder: Path, place: Path) -> None:
    """Writes the page from the results in a folder; its pictures of growth are copied beside it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    found = {path.stem.removeprefix("bench_"): path for path in sorted(folder.glob("bench_*.json"))}
    results = {name: list(read(path).values()) for name, path in found.items()}
    parts = [INTRODUCTION, summary(results), glance(results)]
    for name, some in results.items():
        parts.append(demoted(report(json.loads(found[name].read_text())["doc"], name, some)))
        if any(result.axis for result in some):
            parts.append(shown(folder / f"bench_{name}.png", place.parent))
    place.write_text(re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n")


def demoted(text: str) -> str:
    """Markdown whose headings are one level lower."""
    return re.sub(r"^(#+) ", r"#\1 ", text, flags=re.MULTILINE)


def shown(path: Path, folder: Path) -> str:
    """A line that shows a picture, which is copied beside the page."""
    if not path.exists():
        return ""
    if path.parent != folder:
        shutil.copyfile(path, folder / path.name)
    return f"![time and memory against size, on logarithmic axes]({path.name})\n"


def summary(results: dict[str, list[Result]]) -> str:
    """What was run when and how, benchmark by benchmark, and what went wrong."""
    if not any(results.values()):
        return "Nothing was run yet.\n"
    lines = ["| benchmark | cases | how | when | load before | commit |", "|---|--:|---|---|--:|---|"]
    for name, some in results.items():
        heads = [result.head for result in some]
        paces = [head["pace"] for head in heads]
        how = ", ".join(f"{paces.count(pace)} {pace}" for pace in dict.fromkeys(paces))
        when = span([date(result).removesuffix(" UTC") for result in some])
        commits = ", ".join(dict.fromkeys(head.get("commit") or "not kept" for head in heads))
        cells = [name, str(len(some)), how, when, span([head["load"] for head in heads]), commits]
        lines.append(f"| {' | '.join(cells)} |")
    every = [result for some in results.values() for result in some]
    minutes = sum(result.seconds for result in every) / 60
    lines += ["", f"{counted(len(every), 'case')}, {minutes:.0f} minutes in all; times are UTC.", ""]
    lines += [f"- **failed:** {failure}" for result in every for failure in result.failures]
    return "\n".join(lines) + "\n"


def glance(results: dict[str, list[Result]]) -> str:
    """Every case that has a peer for as much work in a line: our times and memory over those of its fastest peer."""
    lines = ["## At a glance", "", "Ours over the fastest peer of each case: below 1 we take less.", ""]
    lines += ["| benchmark | case | fastest peer | wall | CPU | peak memory |", "|---|---|---|--:|--:|--:|"]
    head = len(lines)
    for name, some in results.items():
        for result in some:
            ours, peer = chosen(result.rows, "mpnn"), chosen(result.rows, "peer")
            if ours and peer and ours.size == peer.size and not result.axis:
                pairs = [(median(ours.wall), median(peer.wall)), (median(ours.cpu), median(peer.cpu))]
                values = [number(ratio(*pair)) for pair in [*pairs, (ours.peak_mb, peer.peak_mb)]]
                lines.append(f"| {' | '.join([name, result.key, peer.name, *values])} |")
    return "\n".join(lines) + "\n" if len(lines) > head else ""


def span(values: list) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder with the results (out)")
    parser.add_argument("--to", type=Path, default=Path("docs/benchmarks.md"), help="the page (docs/benchmarks.md)")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="take over what lies there first")
    options = parser.parse_args()
    take_over(options.folders, options.out)
    if not any(read(path) for path in options.out.glob("bench_*.json")):  # those of --smoke lie elsewhere
        print(f"no results in {options.out}; {options.to} stays as it is")
        return
    make(options.out, options.to)
    print(f"wrote {options.to}")


if __name__ == "__main__":
    main()
