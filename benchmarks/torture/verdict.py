"""What a trial has left, judged by itself: nothing of the pipeline is imported, files are read as their formats say.

Each check returns what is wrong, one line each.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

LAST_MAP = "keys/03.txt"  # configs/torture.yaml: ingest, propose, pseudo_label, filter
Json = dict[str, Any]


@dataclass(frozen=True)
class Left:
    """The folders of a finished trial: inputs, store, run, and the one it was given for temporary files."""

    data: Path
    store: Path
    run: Path
    temp: Path


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file in a folder, by path."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _sha256(path) for path in found}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def committed(store: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every result in a store, by path."""
    paths = [*store.glob("units/*/*.parquet"), *store.glob("artifacts/*/artifact.json")]
    return {str(path.relative_to(store)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def written_again(before: Mapping[str, tuple[int, int]], store: Path) -> list[str]:
    """Results that were there `before` and are not the same files any more."""
    now = committed(store)
    return [
        f"written again: {path}" if path in now else f"gone: {path}"
        for path in before
        if now.get(path) != before[path]
    ]


def contents(left: Left) -> dict[str, str]:
    """All that lies in store and run folder, by path: a file's sha256, "" for a folder or where times stand in it."""
    found = {}
    for name, root in (("store", left.store), ("run", left.run)):
        for path in root.rglob("*"):
            same = path.is_file() and not _holds_times(path)
            found[f"{name}/{path.relative_to(root)}"] = _sha256(path) if same else ""
    return found


def _holds_times(path: Path) -> bool:
    note = path.suffix == ".json" and path.with_suffix(".parquet").exists()
    return note or path.name in ("artifact.json", "run.json")


def same_contents(left: Left, oracle: Mapping[str, str]) -> list[str]:
    """Whether there is what the oracle has, to the byte, and nothing else."""
    found = contents(left)
    wrong = [f"missing: {path}" for path in sorted(oracle.keys() - found.keys())]
    wrong += [f"not the oracle's: {path}" for path in sorted(found.keys() - oracle.keys())]
    both = sorted(oracle.keys() & found.keys())
    return wrong + [
        f"{path}: sha256 {found[path]}, expected {oracle[path]}"
        for path in both
        if found[path] != oracle[path]
    ]


def every_image_once(left: Left, bad: Collection[int] = ()) -> list[str]:
    """Whether each image is done once, in the last stage's units and in the export, or is one of `bad`."""
    listed = json.loads((left.data / "coco.json").read_text())["images"]
    expected = {int(image["id"]) for image in listed}
    seen: list[int] = []
    dropped: set[int] = set()
    for key in (left.run / LAST_MAP).read_text().split():
        for image_id, why in _rows(left.store, key):
            seen.append(image_id)
            if why is not None:
                dropped.add(image_id)
    exported = [int(image["id"]) for image in _export(left.run)["images"]]
    wrong = []
    if sorted(seen) != sorted(expected):
        wrong.append(f"units hold {len(seen)} images ({len(set(seen))} different), expected {len(expected)}")
    if sorted(exported) != sorted(expected - set(bad)):
        wrong.append(f"the export holds {len(exported)} images, expected {len(expected) - len(set(bad))}")
    if dropped != set(bad):
        wrong.append(f"quarantined are {sorted(dropped)}, expected {sorted(bad)}")
    return wrong


def _rows(store: Path, key: str) -> Iterator[tuple[int, str | None]]:
    with pq.ParquetFile(
        store / "units" / key[:2] / f"{key}.parquet", page_checksum_verification=True
    ) as file:
        table = file.read(columns=["image_id", "dropped"])
    yield from zip(*(table.column(name).to_pylist() for name in ("image_id", "dropped")), strict=True)


def images_in(store: Path, path: str) -> set[int]:
    """The images of one unit, by its path in the store."""
    return {image_id for image_id, _ in _rows(store, Path(path).stem)}


def _export(run: Path) -> Json:
    content: Json = json.loads((run / "export" / "coco" / "train.json").read_text())
    return content


def labels_by_image(run: Path) -> dict[int, list[Json]]:
    """The export's annotations of each image."""
    content = _export(run)
    found: dict[int, list[Json]] = {int(image["id"]): [] for image in content["images"]}
    for annotation in content["annotations"]:
        found[annotation["image_id"]].append(annotation)
    return found


def same_but(run: Path, oracle: Path, bad: Collection[int]) -> list[str]:
    """Whether the export is that of the run `oracle` without some images, but for annotation numbers and run's key."""
    expected, found = _export(oracle), _export(run)
    for part, key in (("images", "id"), ("annotations", "image_id")):
        expected[part] = [entry for entry in expected[part] if entry[key] not in bad]
    for number, annotation in enumerate(expected["annotations"], start=1):
        annotation["id"] = number
    for annotation in (*expected["annotations"], *found["annotations"]):
        annotation.get("pseudo", {}).pop("run", None)
    return [
        f"export: {part} are not the oracle's without {sorted(bad)}"
        for part in sorted({*expected, *found})
        if found.get(part) != expected.get(part)
    ]


def counted(data: Path, run: Path) -> list[str]:
    """Whether each image has as many labels of each class as the input itself says; its masks are not looked at."""
    listed = json.loads((data / "coco.json").read_text())
    wanted: dict[int, list[int]] = {int(image["id"]): [] for image in listed["images"]}
    for annotation in listed["annotations"]:
        wanted[annotation["image_id"]].append(annotation["category_id"])
    found = {
        image: [label["category_id"] for label in labels] for image, labels in labels_by_image(run).items()
    }
    return [
        f"image {image}: labels of classes {sorted(found.get(image, []))}, expected {sorted(classes)}"
        for image, classes in wanted.items()
        if sorted(found.get(image, [])) != sorted(classes)
    ]


def sound_store(store: Path) -> list[str]:
    """Whether every result that can be seen is whole: nothing half-written, whatever happened."""
    wrong = []
    for path in sorted(store.glob("units/*/*.parquet")):
        try:
            for _ in _rows(store, path.stem):
                pass
            note = json.loads(path.with_suffix(".json").read_text())
            if note["sha256"] != _sha256(path):
                wrong.append(f"{path.name}: its note has another sha256")
        except (OSError, ValueError, KeyError) as error:
            wrong.append(f"{path.name}: {type(error).__name__}: {error}")
    for manifest in sorted(store.glob("artifacts/*/artifact.json")):
        files: dict[str, str] = json.loads(manifest.read_text())["files"]
        found = {name: d for name, d in digests(manifest.parent).items() if name != manifest.name}
        if found != files:
            wrong.append(f"{manifest.parent.name}: files differ from its manifest")
        if digests(store / "truth" / manifest.parent.name) != json.loads(manifest.read_text())["truth"]:
            wrong.append(f"{manifest.parent.name}: truth differs from its manifest")
    bare = [path for path in store.glob("artifacts/*") if not (path / "artifact.json").exists()]
    wrong += [f"{path.name}: no manifest" for path in bare]
    return wrong


def no_litter(left: Left) -> list[str]:
    """What no run may leave behind: temp files in store and run folder, checkpoints, anything in the temp folder."""
    marks = (".tmp-*", ".*.part", ".*.annotations", "*.new", ".heartbeat.json")
    found = [path for root in (left.store, left.run) for mark in marks for path in root.rglob(mark)]
    found += [path for name in ("tmp", "work") for path in (left.store / name).glob("*")]
    found += [path for path in left.temp.glob("*") if not _is_probe(path)]
    return [f"litter: {path}" for path in sorted(set(found))]


def _is_probe(path: Path) -> bool:
    """Whether Python's `tempfile` left it, killed while it tried out whether it can write into the folder."""
    return (
        bool(re.fullmatch("[a-z0-9_]{8}", path.name))
        and path.is_file()
        and path.read_bytes() in (b"", b"blat")
    )


def judge(left: Left, *, inputs: Mapping[str, str], oracle: Mapping[str, str]) -> list[str]:
    """All that holds for every run that came to its end; `oracle`: the contents of an undisturbed one."""
    changed = [] if digests(left.data) == inputs else ["the inputs were changed"]
    return [
        *same_contents(left, oracle),
        *every_image_once(left),
        *sound_store(left.store),
        *no_litter(left),
        *changed,
    ]
