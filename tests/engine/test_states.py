"""Saved states: the last whole one is found, whatever happened to those after it."""

from pathlib import Path

import pytest

from pipeline.engine.states import KEPT, last_state, save_state, states


def save(folder: Path, number: int, name: str = "box") -> Path:
    save_state(folder, name, number, lambda path: path.write_bytes(b"%d" % number * 1000) and None)
    return states(folder, name)[-1]


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert last_state(folder, "box") is None
    for number in (1, 9, 10, 100):
        save(folder, number)
        save(folder, number, "box_point")
    found = last_state(folder, "box")
    assert found is not None
    assert found.read_bytes() == b"100" * 1000
    assert len(states(folder, "box")) == KEPT == 2
    assert len(list(folder.iterdir())) == 2 * KEPT


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "gone"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    before, last = save(tmp_path, 1), save(tmp_path, 2)
    data = bytearray(last.read_bytes())
    if damage == "gone":
        last.unlink()
    else:
        data[500] ^= 1
        last.write_bytes({"cut": data[:400], "bit": data, "empty": b""}[damage])
    assert last_state(tmp_path, "box") == before
    before.write_bytes(b"")
    assert last_state(tmp_path, "box") is None
    assert last_state(tmp_path, "box") != save(tmp_path, 2)


def test_a_kill_while_it_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    def killed(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    first = save(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, "box", 2, killed)
    assert list(tmp_path.iterdir()) == [first]
    assert last_state(tmp_path, "box") == first
