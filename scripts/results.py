"""Makes the tables of ``docs/results.md`` from the result files that the scripts write with ``--json``.

Run: ``mpnn run results out/*.json``; prints the tables, one for each experiment.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path

from mpnn.experiment import markdown


def main(paths: list[str]) -> str:
    rows = [row for path in paths for row in json.loads(Path(path).read_text())]
    rows.sort(key=lambda row: (row["experiment"], row["dataset"]))
    tables = [
        f"## {experiment}\n\n{markdown(list(group))}\n"
        for experiment, group in groupby(rows, lambda r: r["experiment"])
    ]
    return "\n".join(tables)


if __name__ == "__main__":
    print(main(sys.argv[1:]))
