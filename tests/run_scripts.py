"""Scripts in tests: as modules, as from the command line, and killed on the way."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

import mpnn.train

SCRIPTS = Path(__file__).parent.parent / "scripts"
FIELDS = {"experiment", "dataset", "model", "metric", "mean", "std", "seeds", "published", "seconds"}
COSTS = {"epoch_seconds", "examples_a_second"}  # of what is trained by mpnn.train.fit


def load(name: str, as_name: str | None = None) -> ModuleType:
    """A script as a module, under a name that no module of its own name can be mistaken for."""
    as_name = as_name or f"{name}_script"
    spec = importlib.util.spec_from_file_location(as_name, SCRIPTS / f"{name}.py")
    module = sys.modules[as_name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run(name: str, out: Path, monkeypatch, *arguments: str) -> list[dict]:
    """Runs a script as from the command line; its result rows."""
    monkeypatch.setattr(sys, "argv", [name, *arguments, "--json", str(out / "rows.json"), "--out", str(out)])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # is put back after the test
    load(name, "__main__")
    return json.loads((out / "rows.json").read_text())


@contextmanager
def saving(stop: int | None = None) -> Iterator[list[int]]:
    """The epochs that are saved within, as they come; ends what trains, as Ctrl-C does, after so many."""
    save, epochs = mpnn.train._save, []

    def counted(path, engine, *more):
        save(path, engine, *more)
        epochs.append(engine.state.epoch)
        if len(epochs) == stop:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mpnn.train, "_save", counted)
        yield epochs


@contextmanager
def killed(after: int = 1) -> Iterator[list[int]]:
    """What trains within is killed when so many epochs are saved, and must come so far."""
    with pytest.raises(KeyboardInterrupt), saving(after) as epochs:
        yield epochs
