import uuid

import pytest
from store_fakes import Side, open_side

from pipeline.engine import files


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(files, "sync", lambda _: None)


@pytest.fixture(params=["memory", "s3"])
def remote(request, tmp_path, monkeypatch) -> Side:
    """A store on an object store, as one machine sees it."""
    base = "memory:/" if request.param == "memory" else request.getfixturevalue("bucket")
    return open_side(f"{base}/{uuid.uuid4().hex}", tmp_path, monkeypatch)
