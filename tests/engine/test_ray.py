"""The Ray engine: the same bytes as the local one, whoever is killed; each test that starts a cluster takes seconds."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from local_fakes import PATIENCE, wait_for

from pipeline.engine.faults import BadPlan
from pipeline.engine.ray_cluster import connect

DRIVER = Path(__file__).with_name("engine_driver.py")
SLOW = {"delay": 0.15}  # seconds a call; 8 units of 2 calls in each of the two map stages
TWO = {"cpus": 0.5, "workers": (1, 2)}


def start(folder, **settings):
    """The chain of stages in a process of its own, with its own store."""
    given = {"engine": "ray", "propose": SLOW, "label": SLOW, "resources": TWO, **settings}
    command = [sys.executable, str(DRIVER), str(folder / "run"), str(folder / "store"), json.dumps(given)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(folder, **settings):
    process = start(folder, **settings)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told


def units(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "store" / "units").rglob("*.parquet"))}


def below(process, what):
    """The processes under a driver whose command line holds a text."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):
            found += [child] if what in " ".join(child.cmdline()) else []
    return found


def listening(processes):
    """The addresses on which processes wait for others to connect."""
    found = set()
    for process in processes:
        with suppress(psutil.Error):
            found |= {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    return found


def assert_same(folder, other):
    exports = [place / "run" / "export" / "coco" / "train.json" for place in (folder, other)]
    assert exports[0].read_bytes() == exports[1].read_bytes()
    assert units(folder) == units(other)
    assert list((folder / "store" / "tmp").iterdir()) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an undisturbed local run leaves."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, engine="local")
    return folder


@pytest.mark.parametrize("workers", [(1, 1), (3, 4)])
def test_ray_makes_the_bytes_of_the_local_engine_and_leaves_nothing(tmp_path, whole, workers):
    process = start(tmp_path, resources={"cpus": 0.25, "workers": workers})
    wait_for(lambda: list(tmp_path.glob("store/units/*/*.parquet")))
    started = psutil.Process(process.pid).children(recursive=True)
    assert listening(started) <= {"127.0.0.1", "::ffff:127.0.0.1"}
    logs = {*Path(tempfile.gettempdir()).glob(f"omray-{process.pid}-*")}
    assert logs
    _, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, told) == (0, "")
    assert_same(tmp_path, whole)
    _, alive = psutil.wait_procs(started, timeout=5)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    assert not any(folder.exists() for folder in logs)


@pytest.mark.parametrize("victim", ["RayWorker", "multiprocessing.spawn", "raylet/raylet"])
def test_whatever_is_killed_the_bytes_are_the_same(tmp_path, whole, victim):
    """An actor, the process that it supervises, a whole node: of the last the run ends, and the next goes on."""
    process = start(tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("store/units/*/*.parquet"))) > 2 and below(process, victim))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("store/units/*/*.parquet")}
    os.kill(below(process, victim)[0].pid, signal.SIGKILL)
    _, told = process.communicate(timeout=PATIENCE)
    if victim == "raylet/raylet":
        assert process.returncode == 1, told
        finish(tmp_path)
    else:
        assert process.returncode == 0, told
    again = [path for path, made in before.items() if path.stat().st_mtime_ns != made]
    # A killed worker may have made its unit and not have told of it; after a run's end the store tells the next.
    assert len(again) <= (victim != "raylet/raylet")
    assert_same(tmp_path, whole)


def test_a_killed_driver_takes_its_cluster_along_and_the_next_run_goes_on(tmp_path, whole):
    process = start(tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("store/units/*/*.parquet"))) >= 2)
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    finish(tmp_path)
    assert_same(tmp_path, whole)


def test_a_frozen_worker_is_replaced(tmp_path, whole):
    process = start(tmp_path, image_timeout=5.0)
    wait_for(
        lambda: list(tmp_path.glob("store/units/*/*.parquet")) and below(process, "multiprocessing.spawn")
    )
    os.kill(below(process, "multiprocessing.spawn")[0].pid, signal.SIGSTOP)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told
    assert_same(tmp_path, whole)


def test_a_worker_that_is_frozen_before_it_has_answered(tmp_path, whole):
    process = start(tmp_path, stall_timeout=15.0, resources={"cpus": 0.5, "workers": (2, 2)})
    wait_for(lambda: len(below(process, "ray::RayWorker")) > 1)
    newest = max(below(process, "ray::RayWorker"), key=psutil.Process.create_time)
    os.kill(newest.pid, signal.SIGSTOP)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told
    assert_same(tmp_path, whole)


def test_a_standstill_is_told_not_waited_for(tmp_path):
    process = start(tmp_path, propose={"delay": 600, "unit_size": 64}, image_timeout=0.2, stall_timeout=8.0)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 5, told
    assert "propose: no image finished for" in told


def test_a_signal_stops_after_the_images_in_hand(tmp_path, whole):
    process = start(tmp_path)
    wait_for(lambda: list(tmp_path.glob("store/units/*/*.parquet")))
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, told
    assert time.monotonic() - began < 10
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "ended: Interrupted"
    finish(tmp_path)
    assert_same(tmp_path, whole)


@pytest.mark.parametrize(
    ("send", "number"), [(os.kill, signal.SIGTERM), (os.kill, signal.SIGINT), (os.killpg, signal.SIGTERM)]
)
def test_a_signal_while_ray_starts(tmp_path, send, number):
    process = start(tmp_path)
    wait_for(lambda: below(process, "gcs_server"))
    send(process.pid, number)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number, told
    assert units(tmp_path) == {}


FAILING = """
import ray
from pipeline.engine.faults import StageFailed
from pipeline.engine.ray_cluster import connect

def dies(**settings):
    print(settings["_temp_dir"])
    raise Exception("The current node\\ntimed out")

ray.init = dies
try:
    connect(None, ())
except StageFailed as error:
    print(error)
"""


def test_a_ray_that_does_not_start_is_told_and_cleared_away():
    # In a process of its own: Ray keeps what its environment was when it was first imported.
    command = [sys.executable, "-c", FAILING]
    root = Path(__file__).parents[2]
    folder, told = subprocess.run(
        command, cwd=root, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()
    assert re.search("could not be started on this machine; .*: The current node timed out", told)
    assert not Path(folder).exists()


def test_an_image_that_kills_its_worker_is_quarantined_alone(tmp_path):
    settings = {"deadly_load": [7], "unit_size": 64}
    for engine in ("ray", "local"):
        (tmp_path / engine).mkdir()
        finish(tmp_path / engine, engine=engine, propose=settings, label={})
    log = json.loads((tmp_path / "ray" / "run" / "run.json").read_text())
    reason = "worker died: killed by signal 9"
    assert log["quarantine"] == [{"stage": "propose", "image_id": 7, "reason": reason}]
    assert_same(tmp_path / "ray", tmp_path / "local")


@pytest.mark.parametrize(
    ("taken", "code", "words"),
    [
        (1, 0, ""),
        (2, 5, "no sign of life from any worker at work for .*; ingest needs 1 CPUs; the nodes have 2 CPUs"),
    ],
)
def test_room_that_others_take_is_not_waited_for(tmp_path, whole, taken, code, words):
    occupied = {"cpus": taken, "start_seconds": 6.0}
    resources = {"cpus": 1, "workers": (1, 2)}
    process = start(tmp_path, occupied=occupied, resources=resources, stall_timeout=15.0)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, told
    assert re.search(words, told)
    if code == 0:
        assert_same(tmp_path, whole)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("auto", "no Ray cluster at 127.0.0.1:1: .*refused"),
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1: .*refused"),
        ("127.0.0.1", "expected auto or HOST:PORT, found 127.0.0.1"),
        ("host:port", "expected auto or HOST:PORT, found host:port"),
    ],
)
def test_an_address_without_a_cluster_is_told_at_once(address, problem, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # what "auto" means
    began = time.monotonic()
    with pytest.raises(BadPlan, match=problem):
        connect(address, ())
    assert time.monotonic() - began < 10
