"""The verdict on a trial: it imports nothing of what it judges, and each of its checks can fail."""

import ast
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.torture import verdict
from benchmarks.torture.verdict import Left

KEYS = ("aa" + "0" * 62, "bb" + "1" * 62)
OTHER = "cc" + "2" * 62  # of a stage before the last


def commit(store: Path, key: str, ids: list[int], dropped: dict[int, str] | None = None) -> None:
    path = store / "units" / key[:2] / f"{key}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = pa.array([(dropped or {}).get(number) for number in ids], pa.string())
    pq.write_table(pa.table({"image_id": ids, "dropped": reasons}), path, write_page_checksum=True)
    path.with_suffix(".json").write_text(
        json.dumps({"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    )


def export(run: Path, ids: list[int]) -> None:
    (run / "export" / "coco").mkdir(parents=True, exist_ok=True)
    annotations = [
        {"id": n, "image_id": i, "category_id": 7, "pseudo": {"run": str(len(ids)), "q": i}}
        for n, i in enumerate(ids, start=1)
    ]
    content = {"images": [{"id": number} for number in ids], "annotations": annotations}
    (run / "export" / "coco" / "train.json").write_text(json.dumps(content))


@pytest.fixture
def left(tmp_path: Path) -> Left:
    found = Left(*(tmp_path / name for name in ("data", "store", "run", "temp")))
    for folder in (found.data, found.run / "keys", found.temp, found.store / "artifacts" / "k"):
        folder.mkdir(parents=True)
    (found.data / "coco.json").write_text(json.dumps({"images": [{"id": number} for number in (1, 2, 3)]}))
    commit(found.store, KEYS[0], [1, 3])
    commit(found.store, KEYS[1], [2])
    commit(found.store, OTHER, [1, 2, 3])
    (found.run / verdict.LAST_MAP).write_text("".join(f"{key}\n" for key in KEYS))
    export(found.run, [1, 2, 3])
    artifact = found.store / "artifacts" / "k"
    (artifact / "a.txt").write_text("a")
    files = {"a.txt": hashlib.sha256(b"a").hexdigest()}
    (found.store / "truth" / "k").mkdir(parents=True)
    (found.store / "truth" / "k" / "t.txt").write_text("t")
    truth = {"t.txt": hashlib.sha256(b"t").hexdigest()}
    (artifact / "artifact.json").write_text(json.dumps({"files": files, "truth": truth}))
    return found


def judged(left: Left, spoil: Callable[[Left], object]) -> list[str]:
    inputs, oracle = verdict.digests(left.data), verdict.contents(left)
    spoil(left)
    return verdict.judge(left, inputs=inputs, oracle=oracle)


def unit(left: Left) -> Path:
    return left.store / "units" / "aa" / f"{KEYS[0]}.parquet"


def note(left: Left) -> Path:
    return left.store / "units" / "cc" / f"{OTHER}.json"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def recommit(*ids: int, dropped: dict[int, str] | None = None) -> Callable[[Left], None]:
    return lambda left: commit(left.store, KEYS[0], list(ids), dropped)


SPOILS: list[tuple[str, Callable[[Left], object]]] = [
    ("units hold 4 images (3 different)", recommit(1, 2, 3)),
    ("units hold 2 images (2 different)", recommit(1)),
    ("quarantined are [3], expected []", recommit(1, 3, dropped={3: "why"})),
    ("the export holds 2 images, expected 3", lambda left: export(left.run, [1, 2])),
    ("run/export/coco/train.json: sha256", lambda left: export(left.run, [2, 1, 3])),
    (
        "its note has another sha256",
        lambda left: unit(left).with_suffix(".json").write_text('{"sha256": "0"}'),
    ),
    ("FileNotFoundError", lambda left: unit(left).with_suffix(".json").unlink()),
    ("k: files differ from its manifest", lambda left: flip(left.store / "artifacts" / "k" / "a.txt")),
    ("k: files differ from its manifest", lambda left: (left.store / "artifacts" / "k" / "b").touch()),
    ("half: no manifest", lambda left: (left.store / "artifacts" / "half").mkdir()),
    ("litter: ", lambda left: (left.run / "keys" / ".tmp-host-1-2-abcdef01").touch()),
    ("litter: ", lambda left: (left.run / ".heartbeat.json").touch()),
    ("litter: ", lambda left: (left.temp / "omworker-1-2").mkdir()),
    ("litter: ", lambda left: (left.temp / "m9breaxn").write_bytes(b"ours")),
    ("litter: ", lambda left: (left.temp / "m9breaxn2").touch()),
    ("litter: ", lambda left: (left.store / "work" / "key").mkdir(parents=True)),
    ("the inputs were changed", lambda left: (left.data / "new").touch()),
    ("k: truth differs from its manifest", lambda left: (left.store / "truth" / "k" / "t.txt").unlink()),
    ("k: truth differs from its manifest", lambda left: shutil.rmtree(left.store / "truth")),
    ("missing: store/truth/k", lambda left: shutil.rmtree(left.store / "truth")),
    (f"store/units/cc/{OTHER}.parquet: sha256", lambda left: commit(left.store, OTHER, [1])),
    (f"missing: store/units/cc/{OTHER}.json", lambda left: note(left).unlink()),
    ("not the oracle's: run/train.json.tmp", lambda left: (left.run / "train.json.tmp").touch()),
    ("not the oracle's: run/keys/00.txt~", lambda left: (left.run / "keys" / "00.txt~").touch()),
    ("not the oracle's: store/half-written", lambda left: (left.store / "half-written").mkdir()),
    (
        "not the oracle's: store/units/zz/half",
        lambda left: (left.store / "units" / "zz" / "half").mkdir(parents=True),
    ),
]


def test_a_good_one(left: Left) -> None:
    assert judged(left, lambda _: None) == []
    assert (
        judged(left, lambda left: (left.temp / "m9breaxn").write_bytes(b"blat")) == []
    )  # Python's, not ours
    assert verdict.every_image_once(left, bad=[2]) != []


@pytest.mark.parametrize(
    ("complaint", "spoil"), SPOILS, ids=[f"{n} {row[0]}" for n, row in enumerate(SPOILS)]
)
def test_each_check_can_fail(left: Left, complaint: str, spoil: Callable[[Left], object]) -> None:
    assert any(complaint in line for line in judged(left, spoil))


def test_what_was_there_stays_the_same_file(left: Left) -> None:
    before = verdict.committed(left.store)
    commit(left.store, "dd" + KEYS[0][2:], [9])
    assert verdict.written_again(before, left.store) == []
    content = unit(left).read_bytes()
    unit(left).unlink()
    assert verdict.written_again(before, left.store) == [f"gone: {unit(left).relative_to(left.store)}"]
    (left.store / "x").write_bytes(content)
    (left.store / "x").rename(unit(left))
    assert verdict.written_again(before, left.store) == [
        f"written again: {unit(left).relative_to(left.store)}"
    ]


def test_an_export_without_some_images(left: Left, tmp_path: Path) -> None:
    export(tmp_path / "oracle", [1, 2, 3])
    assert verdict.same_but(left.run, tmp_path / "oracle", []) == []
    assert verdict.same_but(left.run, tmp_path / "oracle", [2]) == [
        f"export: {part} are not the oracle's without [2]" for part in ("annotations", "images")
    ]
    export(left.run, [1, 3])
    assert verdict.same_but(left.run, tmp_path / "oracle", [2]) == []


def test_labels_are_counted_by_the_input(left: Left) -> None:
    listed = {
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [{"image_id": 1, "category_id": 7}, {"image_id": 2, "category_id": 7}],
    }
    (left.data / "coco.json").write_text(json.dumps(listed))
    export(left.run, [1, 2])
    assert verdict.counted(left.data, left.run) == []
    export(left.run, [1])
    assert verdict.counted(left.data, left.run) == ["image 2: labels of classes [], expected [7]"]


def test_it_shares_no_code_with_the_pipeline() -> None:
    assert verdict.__file__ is not None
    tree = ast.parse(Path(verdict.__file__).read_text())
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "pyarrow"}
