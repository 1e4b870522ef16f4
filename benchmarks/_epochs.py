"""What an epoch of each script costs one core: ``python benchmarks/_epochs.py [SCRIPT ...]`` prints a table.

A script is run until it starts to train, and its own model, batches, loss and optimiser go a few steps, for a few
seconds of processor time after the first step; an epoch is as many steps as it has batches. Processor time of one
thread, so that other programs on the machine count little. Rows of results say what epochs took by the clock.
"""

from __future__ import annotations

import sys
import time
from itertools import islice
from typing import Any

import torch
from _harness import Absent
from _scripts import Training, training

from mpnn.train import examples

SCRIPTS = {  # by the table's name: the script, and what it is run with
    "charlm": ("charlm", {"model": "lstm"}),
    "cora, GCN": ("cora", {"dataset": "cora", "model": "gcn"}),
    "cora, GAT": ("cora", {"dataset": "cora", "model": "gat"}),
    "gradients, GCN": ("gradients", {"part": "cora"}),
    "grid": ("grid", {"task": "sums", "model": "grid"}),
    "han": ("han", {"dataset": "acm3025", "model": "han"}),
    "lattice_ner": ("lattice_ner", {"model": "lattice"}),
    "listops": ("listops", {"model": "tree-lstm"}),
    "molecules": ("molecules", {}),
    "reddit_threads": ("reddit_threads", {}),
    "series": ("series", {"dataset": "sunspots", "model": "LSTM"}),
    "sick": ("sick", {"model": "dependency"}),
    "skeletons": ("skeletons", {}),
    "sst": ("sst", {"task": "fine", "model": "tree-lstm"}),
    "superpixels": ("superpixels", {"skip": 1, "few": 24, "model": "graph-lstm"}),
    "tagging": ("tagging", {}),
    "traffic": ("traffic", {"dataset": "chickenpox", "model": "diffusion"}),
}
BUDGET = 2.0  # seconds of the processor for each script


def cost(made: Training) -> tuple[float, int, int]:
    """Seconds of an epoch, its examples, its batches."""
    seconds, seen, steps = 0.0, 0, 0
    for batch in islice(made.batches, 1):
        made.step(batch)
    began = time.process_time()
    while seconds < BUDGET and steps < 3 * len(made.batches):
        for batch in made.batches:
            made.step(batch)
            steps, seen, seconds = steps + 1, seen + examples(batch), time.process_time() - began
            if seconds > BUDGET:
                break
    epochs = steps / len(made.batches)
    return seconds / epochs, round(seen / epochs), len(made.batches)


def row(name: str, script: str, options: dict[str, Any]) -> str:
    try:
        seconds, count, batches = cost(training(script, **options))
    except Absent as reason:
        return f"| {name} | {reason} | | | |"
    return f"| {name} | {batches} | {count:,} | {seconds:.2g} | {count / seconds:.3g} |"


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    print("| script | batches | examples | seconds an epoch | examples a second |\n|---|--:|--:|--:|--:|", flush=True)
    for name, (script, options) in SCRIPTS.items():
        if not names or script in names:
            print(row(name, script, options), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
