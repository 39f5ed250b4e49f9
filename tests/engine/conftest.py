import pytest

from pipeline.engine import files


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(files, "sync", lambda _: None)
