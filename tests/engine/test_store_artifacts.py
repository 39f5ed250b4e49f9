"""Artifacts in the store: their parts, their digests, what damage does to them."""

import pytest
from store_helpers import KEY, commit_artifact, flip

from pipeline.engine.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_an_artifact_is_found_with_its_parts(store):
    made = commit_artifact(store)
    found = store.find_artifact(KEY)
    assert found == made
    assert (found.metrics, found.seconds) == ({"loss": 0.5}, 1.5)
    part = found.part("sub")
    assert set(part.files) == {"weights.bin"}
    assert part.digest != found.digest
    with pytest.raises(FileNotFoundError, match="expected a part 'none'"):
        found.part("none")


def test_truth_lies_apart_and_is_checked_with_the_rest(store):
    with store.scratch_folder() as folder:
        for name in ("dataset", "truth"):
            (folder / name).mkdir()
            (folder / name / "file").write_text(name)
        made = store.commit_artifact(KEY, folder, stage="ingest", metrics={}, seconds=1.0, about={})
    assert store.find_artifact(KEY) == made
    assert {p.name for p in made.folder.iterdir()} == {"dataset", "artifact.json"}
    truth = made.part("truth")
    assert (truth.folder / "file").read_text() == "truth"
    assert not truth.folder.is_relative_to(made.folder.parent)
    (truth.folder / "file").write_text("other")
    assert store.find_artifact(KEY) is None


def test_an_artifact_digest_is_that_of_its_files(store):
    first = commit_artifact(store).digest
    assert commit_artifact(store, redo=True).digest == first
    assert commit_artifact(store, "other weights", redo=True).digest != first


def test_a_sound_artifact_stays_where_it_is(store):
    first = commit_artifact(store)
    inode = (first.folder / "other.txt").stat().st_ino
    assert commit_artifact(store, "other weights") == first
    assert (first.folder / "other.txt").stat().st_ino == inode
    assert not list((store.root / "tmp").iterdir())
    flip(first.folder / "sub" / "weights.bin", 0.5)
    assert commit_artifact(store, "other weights").digest != first.digest


def _flip_weights(folder):
    flip(folder / "sub" / "weights.bin", 0.5)


def _flip_manifest(folder):
    path = folder / "artifact.json"
    path.write_text(path.read_text().replace('"loss": 0.5', '"loss": 0.4'))


def _truncate_manifest(folder):
    path = folder / "artifact.json"
    path.write_text(path.read_text()[:50])


@pytest.mark.parametrize(
    "damage",
    [
        _flip_weights,
        _flip_manifest,
        _truncate_manifest,
        lambda folder: (folder / "artifact.json").unlink(),
        lambda folder: (folder / "artifact.json").write_text("[]"),
        lambda folder: (folder / "other.txt").unlink(),
        lambda folder: (folder / "more.txt").write_text("more"),
    ],
)
def test_a_damaged_artifact_is_missing_and_can_be_made_again(store, damage):
    commit_artifact(store)
    damage(store.artifact_folder(KEY))
    assert store.find_artifact(KEY) is None
    assert store.damaged == [store.artifact_folder(KEY)]
    commit_artifact(store)
    assert store.find_artifact(KEY) is not None
