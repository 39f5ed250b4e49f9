"""The real data sets some tests look at, found through the environment alone; hypothesis kept steady."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


@pytest.fixture
def real_data() -> Path:
    """The folder OMNIMASK_DATA names; the test is skipped without it."""
    root = os.environ.get("OMNIMASK_DATA")
    if not root:
        pytest.skip("OMNIMASK_DATA does not name the folder of real data sets")
    return Path(root)
