import uuid

import pytest
from store_fakes import Side, open_side

from pipeline.engine import files
from pipeline.engine.display import Silent
from pipeline.engine.drive import Options, drive


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(files, "sync", lambda _: None)


@pytest.fixture(params=["memory", "s3"])
def remote(request, tmp_path, monkeypatch) -> Side:
    """A store on an object store, as one machine sees it."""
    base = "memory:/" if request.param == "memory" else request.getfixturevalue("bucket")
    return open_side(f"{base}/{uuid.uuid4().hex}", tmp_path, monkeypatch)


class Listener(Silent):
    """Remembers how many units of each stage had to be made, and the notes."""

    def __init__(self):
        self.made = {}
        self.notes = []

    def begin(self, label, *, units, reused, images):  # noqa: ARG002
        self.made[label] = units - reused

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def go(tmp_path):
    """A function that runs a plan in this process; (anything to do, units made by stage, notes)."""

    def run(plan, out="run", store="store", **options):
        listener = Listener()
        worked = drive(plan, Options(tmp_path / out, tmp_path / store, workers=0, **options), listener)
        return worked, listener.made, listener.notes

    return run
