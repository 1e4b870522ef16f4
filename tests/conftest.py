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
    """Compiled levels run as they were traced and cut in two, without Inductor, which takes seconds for each. As its
    code would read other numbers where strides are not those that were traced, that is looked at.
    """
    from mpnn.engine import program

    def compile_graph(graph, **_):
        traced = [getattr(node.meta["val"], "stride", tuple)() for node in program._inputs(graph)]

        def run(given):
            for value, strides in zip(given, traced, strict=True):
                there = zip(value.shape, value.stride(), strides) if strides else ()
                assert all(n < 2 or a == b for n, a, b in there if type(b) is int), (value.stride(), strides)
            return graph(*given)

        return run

    monkeypatch.setattr(program, "compile_graph", compile_graph)
    program._tracer.cache_clear()
    torch._dynamo.reset()
    yield
    program._tracer.cache_clear()
