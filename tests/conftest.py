"""The real data sets some tests look at, found through the environment alone; hypothesis kept steady."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from ranks import Pair
from s3_server import environment, new_bucket, serving

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
NOBODY = 65534


@pytest.fixture
def real_data() -> Path:
    """The folder OMNIMASK_DATA names; the test is skipped without it."""
    root = os.environ.get("OMNIMASK_DATA")
    if not root:
        pytest.skip("OMNIMASK_DATA does not name the folder of real data sets")
    return Path(root)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 server on this machine, without a bucket."""
    with serving() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint, monkeypatch) -> str:
    """A new bucket; whoever is started finds the server by the environment, as users' programs do."""
    for name, value in environment(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    return new_bucket(s3_endpoint)


@pytest.fixture
def without_rights() -> Iterator[Path]:
    """An empty folder, in a test that has no more rights than anyone: root may read everything."""
    with tempfile.TemporaryDirectory(prefix="omnimask-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # pytest's own are closed to others
        if os.geteuid():
            yield folder
            return
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(0)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two processes of a team, for all tests that need some."""
    both = Pair(tmp_path_factory.mktemp("pair"))
    yield both
    both.close()
