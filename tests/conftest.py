"""What all tests share: the Hypothesis profile, and the real data sets where there are any."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import mpnn.train

settings.register_profile("mpnn", deadline=None)  # the first torch call is slow
settings.load_profile("mpnn")


@pytest.fixture(autouse=True)
def every_epoch_is_saved(monkeypatch):
    """Where there is a checkpoint at all, so that a test can kill what trains after any epoch."""
    monkeypatch.setattr(mpnn.train, "SAVE_EVERY", 0.0)


@pytest.fixture
def mpnn_data() -> Path:
    """The folder with the real data sets; the test is skipped where there is none."""
    given = os.environ.get("MPNN_DATA")
    if not given:
        pytest.skip("MPNN_DATA is not set; point it at the folder with the data sets to run this test")
    return Path(given)


@pytest.fixture
def interpreted(monkeypatch):
    """Compiled levels run as they were traced and cut in two, without Inductor, which takes seconds for each."""
    from mpnn.engine import program

    monkeypatch.setattr(program, "compile_graph", lambda graph, **_: lambda given: graph(*given))
    program._tracer.cache_clear()
    torch._dynamo.reset()
    yield
    program._tracer.cache_clear()
