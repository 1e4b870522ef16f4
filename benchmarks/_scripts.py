"""What a script trains, caught in the moment it starts: its model, its batches, its loss."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from _harness import Absent
from torch import Tensor, nn

import mpnn
from mpnn.datasets import catalog
from mpnn.train import Fit, seed_all


@dataclass
class Training:
    """What a script hands to :func:`mpnn.train.fit`."""

    model: nn.Module
    batches: Iterable[Any]
    loss: Callable[[nn.Module, Any], Tensor]
    optimizer: torch.optim.Optimizer
    clip: float | None = None

    def step(self, batch: Any) -> None:
        """One step of training, as ``fit`` does it."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.model, batch).backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()


class Caught(BaseException):
    """Carries what was caught out of the script."""


def module_of(script: str) -> ModuleType:
    path = catalog.beside("scripts") / f"{script}.py"
    spec = importlib.util.spec_from_file_location(f"script_{script}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def training(script: str, skip: int = 0, few: int | None = None, **options: Any) -> Training:
    """Runs a script with options until it starts to train, the first ``skip`` times left out; with only the first
    ``few`` graphs of each part of its data.

    Raises:
        Absent: its data is not here.
    """
    module, left = module_of(script), [skip]

    def fit(model, batches, loss, evaluate, optimizer, epochs, *_, clip=None, **__):
        if left[0]:
            left[0] -= 1
            return Fit(best={"epoch": 1, "val": 0.0}, history={}, epochs=1)
        raise Caught(Training(model.train(), batches, loss, optimizer, clip))

    def load(*args, **kwargs):
        return {part: some[:few] for part, some in whole(*args, **kwargs).items()}

    module.fit, whole = fit, mpnn.datasets.load
    seed_all(0)
    with tempfile.TemporaryDirectory() as folder:
        config = module.Config(**{"picture": False, "out": Path(folder), **options})
        try:
            with patch.object(mpnn.datasets, "load", load if few else whole):
                module.main(config)
        except Caught as caught:
            return caught.args[0]
        except FileNotFoundError as error:
            raise Absent(f"the data of {script} is not here ({str(error).split('. ')[0]})") from error
    raise Absent(f"{script} with {options} trains nothing")
