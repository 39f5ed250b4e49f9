"""What every store keeps to: a folder, memory://, and s3:// on a real server."""

import threading
import uuid

import pytest
from engine_fakes import make_record
from store_fakes import KEY, OTHER, Side, commit_artifact, open_side

from pipeline.data.arrow import to_table
from pipeline.engine import parquet
from pipeline.engine.artifact import Artifact
from pipeline.engine.store import Store
from pipeline.engine.units import Timing


@pytest.fixture(params=["folder", "memory", "s3"])
def side(request, tmp_path, monkeypatch) -> Side:
    """A store as one machine sees it; `side.elsewhere()` is the same as another does."""
    if request.param == "folder":
        return open_side(str(tmp_path / "store"), tmp_path)
    base = "memory:/" if request.param == "memory" else request.getfixturevalue("bucket")
    return open_side(f"{base}/{uuid.uuid4().hex}", tmp_path, monkeypatch)


def table(*ids):
    return to_table([make_record(i) for i in ids])


def test_a_unit_is_found_everywhere(side):
    assert not side.store.has_unit(KEY)
    side.store.commit_unit(KEY, table(1, 2), Timing(2.0, 2))
    for store in (side.store, side.elsewhere()):
        assert store.has_unit(KEY)
        assert store.unit_timing(KEY) == Timing(2.0, 2)
        found = parquet.read(store.unit_path(KEY)).replace_schema_metadata(None)
        assert found.equals(table(1, 2))
        assert not store.damaged


def test_equal_units_are_equal_bytes(side):
    side.store.commit_unit(KEY, table(1, 2), Timing(2.0, 2))
    first = side.store.unit_path(KEY).read_bytes()
    side.elsewhere().commit_unit(KEY, table(1, 2), Timing(3.0, 2))
    assert side.elsewhere().unit_path(KEY).read_bytes() == first


def test_a_name_leads_to_the_same_everywhere(side):
    side.store.commit_unit(KEY, table(1), Timing(1.0, 1))
    made = commit_artifact(side.store)
    names = [side.store.name_of(path) for path in (side.store.unit_path(KEY), made.folder / "sub")]
    assert not any(name.is_absolute() for name in names)
    unit, sub = side.elsewhere().here(names)
    assert parquet.read(unit).num_rows == 1
    assert (sub / "weights.bin").read_text() == "weights"


def test_a_path_outside_stays_what_it_is(side, tmp_path):
    path = tmp_path / "photos"
    assert side.store.here([side.store.name_of(path)]) == [path]


def test_an_artifact_is_found_everywhere(side):
    assert side.store.find_artifact(KEY) is None
    made = commit_artifact(side.store)
    found = side.elsewhere().find_artifact(KEY)
    assert (found.digest, found.metrics, found.seconds) == (made.digest, {"loss": 0.5}, 1.5)
    assert set(found.part("sub").files) == {"weights.bin"}
    assert found.folder.is_dir()


@pytest.mark.parametrize("truth", ["", "hidden"])
def test_an_artifact_without_files_is_found_everywhere(side, truth):
    def commit(store: Store) -> Artifact:
        with store.scratch_folder() as folder:
            if truth:
                (folder / "truth").mkdir()
                (folder / "truth" / "file").write_text(truth)
            return store.commit_artifact(
                KEY, folder, stage="fit", metrics={"loss": 0.5}, seconds=1.5, about={}
            )

    made = commit(side.store)
    store = side.elsewhere()
    (folder,) = store.here([side.store.name_of(made.folder)])
    assert folder.is_dir()
    assert store.find_artifact(KEY).digest == made.digest
    assert store.find_artifact(KEY).metrics == {"loss": 0.5}
    assert commit(side.elsewhere()).digest == made.digest


def test_the_truth_lies_apart(side):
    made = commit_artifact(side.store, truth="hidden")
    for found in (made, side.elsewhere().find_artifact(KEY)):
        assert (found.part("truth").folder / "file").read_text() == "hidden"
        assert not any(b"hidden" in path.read_bytes() for path in found.folder.parent.rglob("*.*"))


def test_whoever_is_lent_an_artifact_gets_no_truth(side):
    made = commit_artifact(side.store, truth="hidden")
    store = side.elsewhere()
    (folder,) = store.here([side.store.name_of(made.folder)])
    assert (folder / "other.txt").read_text() == "other"
    assert side.is_folder or not store.truth_folder(KEY).exists()


def test_an_artifact_replaces_a_damaged_one(side):
    commit_artifact(side.store, truth="hidden")
    side.damage_artifact()
    store = side.elsewhere()
    assert store.find_artifact(KEY) is None
    assert len(store.damaged) == 1
    commit_artifact(store, "other weights")
    found = side.elsewhere().find_artifact(KEY)
    assert (found.folder / "sub" / "weights.bin").read_text() == "other weights"
    assert side.leftovers() == []


def test_a_unit_replaces_a_damaged_one(side):
    side.store.commit_unit(KEY, table(1, 2), Timing(2.0, 2))
    side.damage_unit()
    store = side.elsewhere()
    assert not store.has_unit(KEY)
    assert len(store.damaged) == 1
    store.commit_unit(KEY, table(1, 2), Timing(2.0, 2))
    assert side.elsewhere().has_unit(KEY)


def test_fresh_work_replaces_sound_work(side):
    commit_artifact(side.store)
    commit_artifact(side.elsewhere(), "later weights", redo=True)
    found = side.elsewhere().find_artifact(KEY)
    assert (found.folder / "sub" / "weights.bin").read_text() == "later weights"
    side.store.commit_unit(KEY, table(1), Timing(1.0, 1))
    side.elsewhere().commit_unit(KEY, table(1, 2), Timing(1.0, 2), redo=True)
    assert parquet.read(side.elsewhere().unit_path(KEY)).num_rows == 2
    assert side.leftovers() == []


def test_a_scratch_folder_does_not_stay(side):
    with side.store.scratch_folder() as folder:
        (folder / "file").write_text("x")
    assert not folder.exists()


def test_one_works_on_a_job_and_others_wait(side):
    asked = threading.Event()
    told = []

    def wait() -> None:
        told.append("waiting")
        asked.set()

    def second() -> None:
        with side.elsewhere().job_lock(KEY, wait):
            told.append("second")

    other = threading.Thread(target=second)
    with side.store.job_lock(KEY, lambda: None), side.store.job_lock(OTHER, lambda: None):
        other.start()
        assert asked.wait(10)
        told.append("first")
    other.join(20)
    assert told[-1] == "second"
    assert "second" not in told[: told.index("first")]


def test_checkpoints_survive(side):
    with side.store.job_lock(KEY, lambda: None):
        (side.store.workdir(KEY) / "step").write_text("7")
        side.store.keep_work(KEY, now=True)
    assert (side.elsewhere().workdir(KEY) / "step").read_text() == "7"
    side.elsewhere().forget_work(KEY)
    assert not list(side.elsewhere().workdir(KEY).iterdir())


def test_a_sign_is_seen_until_it_is_taken_back(side):
    sign = side.store.leave_sign()
    assert side.elsewhere().sees(sign)
    side.store.take_back(sign)
    side.store.renew_sign(sign)  # somebody took it for a dead one's
    assert side.elsewhere().sees(sign)
    side.store.take_back(sign)
    assert not side.elsewhere().sees(sign)
