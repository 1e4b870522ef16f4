"""Runs all benchmarks, each in a process of its own, and joins their tables to a page after each.

Arguments are handed on to every benchmark; ``--skip NAME ...`` leaves some out, and ``--only NAME ...`` all others.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _harness import CACHE
from _page import make

HERE = Path(__file__).parent


def names() -> list[str]:
    """The benchmarks there are; those that take longest to be interesting come last."""
    found = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    return sorted(found, key=lambda name: name == "scaling")


def run(name: str, arguments: list[str]) -> bool:
    """Runs one benchmark; whether all went well."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *arguments], stdout=subprocess.DEVNULL)
    print(f"{name}: {time.perf_counter() - began:.0f} s" + (", FAILED" if done.returncode else ""), flush=True)
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skip", nargs="+", default=[], choices=names(), metavar="NAME")
    parser.add_argument("--only", nargs="+", default=names(), choices=names(), metavar="NAME")
    parser.add_argument("--out", type=Path, help="folder for all that is made (out; out/smoke with --smoke)")
    options, rest = parser.parse_known_args()
    out = options.out or Path("out/smoke" if "--smoke" in rest else "out")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE] = folder  # data that several benchmarks share
        for name in options.only:
            if name not in options.skip and not run(name, [*rest, "--out", str(out)]):
                failed.append(name)
            make(out, out / "benchmarks.md")
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}; {out / 'benchmarks.md'} says what.")


if __name__ == "__main__":
    main()
