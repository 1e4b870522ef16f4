"""Makes the tables of ``docs/results.md`` from the result files that the scripts write with ``--json``.

Run: ``mpnn run results out/*.json``; prints the tables, one for each experiment.
"""

from __future__ import annotations

import argparse
import json
from itertools import groupby
from pathlib import Path

from mpnn.experiment import markdown


def main(paths: list[str]) -> str:
    """The tables of the rows of all files, by experiment and data set."""
    rows = [row for path in paths for row in json.loads(Path(path).read_text())]
    rows.sort(key=lambda row: (row["experiment"], row["dataset"]))
    tables = [
        f"## {experiment}\n\n{markdown(list(group))}\n"
        for experiment, group in groupby(rows, lambda r: r["experiment"])
    ]
    return "\n".join(tables)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="mpnn run results", description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", metavar="FILE", help="what a script wrote with --json")
    try:
        print(main(parser.parse_args().paths))
    except FileNotFoundError as error:
        parser.exit(1, f"results: there is no file {error.filename}; a script writes one with --json\n")
