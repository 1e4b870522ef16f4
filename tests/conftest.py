"""What all tests share: the Hypothesis profile, and the real data sets where there are any."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("mpnn", deadline=None)  # the first torch call is slow
settings.load_profile("mpnn")


@pytest.fixture
def mpnn_data() -> Path:
    """The folder with the real data sets; the test is skipped where there is none."""
    given = os.environ.get("MPNN_DATA")
    if not given:
        pytest.skip("MPNN_DATA is not set; point it at the folder with the data sets to run this test")
    return Path(given)
