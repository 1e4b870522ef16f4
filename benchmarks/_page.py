"""Joins the tables of all benchmarks that were run to one page: ``docs/benchmarks.md``."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

from _report import Result, read, report

INTRODUCTION = """# Benchmarks

Made by `mpnn bench page` from what `make bench` (or `mpnn bench NAME` for one benchmark) left in `out/`. Each case
names its command, date, rounds and the load average before it; each benchmark its machine and versions, and what is
absent.

How it is measured: contenders of a case are checked against each other first (outputs and gradients), then timed by
turns in one process, in a new order each round. A turn is tried again while other processes use more than 0.15 cores;
what remained of them is "foreign cores". Wall and processor time (all threads) are medians; IQR are the quartiles of
wall time. "step MB" is the highest resident size in two steps less that after set-up, "set-up MB" the resident size
after set-up, measured in a process of its own for each contender; their sum is the peak. "x best peer" is to the
fastest peer, "x reference" to the bare products or copies that the work cannot do without. Compare within a table;
ratios below 1.2 between rows are noise on a busy machine.
"""


def make(folder: Path, place: Path) -> None:
    """Writes the page from the results in a folder; its pictures of growth are copied beside it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    parts = [INTRODUCTION]
    for path in sorted(folder.glob("bench_*.json")):
        name, doc, results = path.stem.removeprefix("bench_"), json.loads(path.read_text())["doc"], read(path)
        parts.append(demoted(report(doc, name, list(results.values()))))
        if any(result.axis for result in results.values()):
            parts.append(picture(folder / f"bench_{name}.png", place.parent, name, results))
    parts.insert(1, summary(folder))
    place.write_text(re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n")


def demoted(text: str) -> str:
    """Markdown whose headings are one level lower."""
    return re.sub(r"^(#+) ", r"#\1 ", text, flags=re.MULTILINE)


def picture(path: Path, folder: Path, name: str, results: dict[str, Result]) -> str:
    """A line that shows a picture, which is copied beside the page."""
    if not path.exists():
        return ""
    if path.parent != folder:
        shutil.copyfile(path, folder / path.name)
    return f"![time and memory against size, on logarithmic axes]({path.name})\n"


def summary(folder: Path) -> str:
    """What was run when, and what went wrong, in a few lines."""
    results = [result for path in sorted(folder.glob("bench_*.json")) for result in read(path).values()]
    if not results:
        return "Nothing was run yet.\n"
    failures = [failure for result in results for failure in result.failures]
    dates = sorted(result.head["date"] for result in results)
    minutes = sum(result.seconds for result in results) / 60
    lines = [f"{len(results)} cases, {dates[0]} to {dates[-1]}, {minutes:.0f} minutes in all.", ""]
    return "\n".join(lines + [f"- **failed:** {failure}" for failure in failures]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder with the results (out)")
    parser.add_argument("--to", type=Path, default=Path("docs/benchmarks.md"), help="the page (docs/benchmarks.md)")
    options = parser.parse_args()
    make(options.out, options.to)
    print(f"wrote {options.to}")


if __name__ == "__main__":
    main()
