"""A run on the local engine, in this process or in one that can be killed."""

import json
import subprocess
import sys
import time
from pathlib import Path

from engine_fakes import (
    FakeExport,
    FakeIngest,
    FakeIngestConfig,
    FakePropose,
    FakeTrain,
    make_plan,
)

from pipeline.engine.display import Silent
from pipeline.engine.drive import Options, drive
from pipeline.engine.stage import StageConfig

DRIVER = Path(__file__).with_name("engine_driver.py")
PATIENCE = 90.0


def short(*, propose=None, train=None):
    """A chain with few units: 12 images."""
    return make_plan(
        (FakeIngest, FakeIngestConfig(images=12)),
        *([(FakeTrain, train)] if train else []),
        *([(FakePropose, propose)] if propose else []),
        (FakeExport, StageConfig()),
    )


def run(plan, tmp_path, name="run", **options):
    drive(plan, Options(tmp_path / name, tmp_path / f"{name}-store", **options), Silent())
    return json.loads((tmp_path / name / "run.json").read_text())


def units(tmp_path, name):
    found = sorted((tmp_path / f"{name}-store" / "units").rglob("*.parquet"))
    return {path.name: path.read_bytes() for path in found}


def start(tmp_path, name, store, **settings):
    command = [sys.executable, str(DRIVER), str(tmp_path / name), str(tmp_path / store), json.dumps(settings)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
