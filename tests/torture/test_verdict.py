"""The verdict on a trial: it imports nothing of what it judges, and each of its checks can fail."""

import ast
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.torture import verdict
from benchmarks.torture.verdict import Left

KEYS = ("aa" + "0" * 62, "bb" + "1" * 62)


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
        {"id": n, "image_id": i, "score": 0.5, "pseudo": {"run": "r", "q": i}} for n, i in enumerate(ids)
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
    (found.run / verdict.LAST_MAP).write_text("".join(f"{key}\n" for key in KEYS))
    export(found.run, [1, 2, 3])
    artifact = found.store / "artifacts" / "k"
    (artifact / "a.txt").write_text("a")
    files = {"a.txt": hashlib.sha256(b"a").hexdigest()}
    (artifact / "artifact.json").write_text(json.dumps({"files": files}))
    return found


def judged(left: Left, spoil: Callable[[Left], object]) -> list[str]:
    inputs, oracle = verdict.digests(left.data), verdict.digests(left.run / "export")
    spoil(left)
    return verdict.judge(left, inputs=inputs, oracle=oracle)


def unit(left: Left) -> Path:
    return left.store / "units" / "aa" / f"{KEYS[0]}.parquet"


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
    ("export/coco/train.json: sha256", lambda left: export(left.run, [2, 1, 3])),
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
    ("litter: ", lambda left: (left.store / "work" / "key").mkdir(parents=True)),
    ("the inputs were changed", lambda left: (left.data / "new").touch()),
]


def test_a_good_one(left: Left) -> None:
    assert judged(left, lambda _: None) == []
    assert verdict.every_image_once(left, bad=[2]) != []


@pytest.mark.parametrize(
    ("complaint", "spoil"), SPOILS, ids=[f"{n} {row[0]}" for n, row in enumerate(SPOILS)]
)
def test_each_check_can_fail(left: Left, complaint: str, spoil: Callable[[Left], object]) -> None:
    assert any(complaint in line for line in judged(left, spoil))


def test_what_was_there_stays_the_same_file(left: Left) -> None:
    before = verdict.committed(left.store)
    commit(left.store, "cc" + KEYS[0][2:], [9])
    assert verdict.written_again(before, left.store) == []
    content = unit(left).read_bytes()
    unit(left).unlink()
    assert verdict.written_again(before, left.store) == [f"gone: {unit(left).relative_to(left.store)}"]
    (left.store / "x").write_bytes(content)
    (left.store / "x").rename(unit(left))
    assert verdict.written_again(before, left.store) == [
        f"written again: {unit(left).relative_to(left.store)}"
    ]


def test_labels_are_compared_without_the_runs_key(left: Left) -> None:
    assert verdict.labels_by_image(left.run)[2] == [{"score": 0.5, "pseudo": {"q": 2}}]


def test_it_shares_no_code_with_the_pipeline() -> None:
    assert verdict.__file__ is not None
    tree = ast.parse(Path(verdict.__file__).read_text())
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "pyarrow"}
