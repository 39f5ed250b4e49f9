"""COCO files of a million annotations: how fast they are written and read, and in how much memory.

    python -m benchmarks.coco_io            (6 minutes, 2 GB of disk, 6 GB of memory for pycocotools)

`write`: `CocoWriter`, pseudo-masks of 10 objects an image with all that a run knows of them; `read back`: `CocoFile`
on what it wrote. `index` and `records`: `CocoFile` on a file as other tools write it, masks half polygons, half RLE:
the first pass, and then every image as a checked record with its masks as RLE. Beside them, on the same file,
`json.load` alone and pycocotools' `COCO`, which checks nothing and decodes no mask. Each runs in a process of its own,
whose peak memory is told (`imports` is a process that does nothing). Prints one JSON line; exits 1 unless every
annotation is read back: those that we wrote with the image, class, score and text that the writer was handed, and the
first 1,000 of the other file with the texts that pycocotools gives them.
"""

import argparse
import contextlib
import io
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks import timing
from benchmarks.shapes import Shapes, numbered, sized, xywh
from pipeline.data import masks
from pipeline.data.coco import CocoFile, CocoWriter
from pipeline.data.records import (
    RLE,
    Category,
    Instance,
    Ontology,
    Origin,
    Prompt,
    Record,
    Role,
    Source,
    WeakKind,
)

SIZE = (480, 640)
AN_IMAGE = 10
ONTOLOGY = Ontology(tuple(Category(number, f"class {number}") for number in range(1, 81)))
POOL = 997  # different shapes, dealt out in turn; more than any cache keeps
COMPARED = 1000  # masks that are compared with pycocotools'
THEIRS, OURS = "theirs.json", "ours.json"

Numbers = dict[str, float | int]


def pool(count: int) -> tuple[list[RLE], list[list[list[float]]]]:
    """The shapes of `count` annotations, as RLE and as polygons."""
    found = [Shapes(SIZE, seed=number).new() for number in range(min(POOL, count))]
    return [shape.rle() for shape in found], [[shape.polygon()] for shape in found]


def records(count: int) -> Iterator[Record]:
    """`count` pseudo-masks, 10 an image, with everything that `pseudo_label` keeps."""
    rles, _ = pool(count)
    for image in numbered(-(-count // AN_IMAGE), SIZE):
        number = int(str(image["id"]))
        first = (number - 1) * AN_IMAGE
        made = tuple(_instance(i, rles[i % len(rles)]) for i in range(first, min(first + AN_IMAGE, count)))
        yield Record(
            number, str(image["file_name"]), "", SIZE[1], SIZE[0], "train", Role.WEAK, instances=made
        )


def _instance(index: int, rle: RLE) -> Instance:
    box = masks.tight_box(rle)
    class_id = index % len(ONTOLOGY.ids) + 1
    return Instance(
        Source.TEACHER,
        class_id=class_id,
        rle=rle,
        human_id=index + 1,
        weak_kind=WeakKind.BOX,
        prompt=Prompt(Origin.HUMAN, box, class_id=class_id),
        score=0.8125,
        pred_iou=0.8125,
        stability=0.9375,
        model="0" * 64,
    )


def make_theirs(folder: Path, count: int) -> Numbers:
    """A file as other tools write it; every other mask a polygon."""
    rles, polygons = pool(count)
    boxes, areas = [xywh(rle) for rle in rles], [masks.area(rle) for rle in rles]
    categories = [{"id": category.id, "name": category.name} for category in ONTOLOGY.categories]
    with (folder / THEIRS).open("w", encoding="ascii") as file:
        images = numbered(-(-count // AN_IMAGE), SIZE)
        file.write(f'{{"images": [{", ".join(map(json.dumps, images))}], "annotations": [')
        for i in range(count):
            k = i % len(rles)
            entry = {
                "segmentation": polygons[k] if i % 2 else sized(rles[k]),
                "area": areas[k],
                "iscrowd": 0,
                "image_id": i // AN_IMAGE + 1,
                "bbox": boxes[k],
                "category_id": i % len(ONTOLOGY.ids) + 1,
                "id": i + 1,
            }
            file.write((", " if i else "") + json.dumps(entry))
        file.write(f'], "categories": {json.dumps(categories)}}}')
    return {"seconds": 0.0, "annotations": count}


def write(folder: Path, count: int) -> Numbers:
    """Our writer; the time to make the records is taken off. `digest` is of what it was handed."""
    spent = -_seconds(lambda: sum(len(record.instances) for record in records(count)))
    start = time.perf_counter()
    with CocoWriter(folder / OURS, ONTOLOGY, info={}) as writer:
        for record in records(count):
            writer.add(record)
    spent += time.perf_counter() - start
    return {"seconds": spent, "annotations": count - writer.left_out, "digest": digest(_told(records(count)))}


def read_back(folder: Path, _: int) -> Numbers:
    """What our writer wrote, every annotation checked; `digest` is of all of them."""
    with CocoFile(folder / OURS) as file:
        start = time.perf_counter()
        count = sum(len(record.instances) for record in _clean(file))
        return {
            "seconds": time.perf_counter() - start,
            "annotations": count,
            "digest": digest(_told(_clean(file))),
        }


def index(folder: Path, _: int) -> Numbers:
    """Our first pass."""
    start = time.perf_counter()
    with CocoFile(folder / THEIRS) as file:
        return {"seconds": time.perf_counter() - start, "annotations": file.annotations}


def read_records(folder: Path, _: int) -> Numbers:
    """Our second: every annotation checked and turned into RLE."""
    with CocoFile(folder / THEIRS) as file:
        start = time.perf_counter()
        count = sum(len(record.instances) for record in _clean(file))
        spent = time.perf_counter() - start
        first = itertools.islice(_instances(_clean(file)), COMPARED)
        texts = [[image_id, _text(instance)] for image_id, instance in first]
    return {"seconds": spent, "annotations": count, "digest": digest(texts)}


def _clean(file: CocoFile) -> Iterator[Record]:
    """The records in which nothing was found wrong."""
    for image in file.images:
        record, findings = file.record(image, sha256="", split="train", role=Role.HUMAN_MASKED)
        if not findings:
            yield record


def _instances(found: Iterable[Record]) -> Iterator[tuple[int, Instance]]:
    return ((record.image_id, instance) for record in found for instance in record.instances)


def _told(found: Iterable[Record]) -> Iterator[Sequence[object]]:
    """What a file must keep of every mask."""
    for image_id, one in _instances(found):
        yield image_id, one.class_id, one.score, _text(one)


def _text(instance: Instance) -> str | None:
    return None if instance.rle is None else instance.rle.counts


def digest(rows: Iterable[Sequence[object]]) -> int:
    """A number that depends on each row and their order."""
    found = 0
    for row in rows:
        found = zlib.crc32(json.dumps(row).encode(), found)
    return found


def load_json(folder: Path, _: int) -> Numbers:
    """A JSON parser alone."""
    start = time.perf_counter()
    with (folder / THEIRS).open("rb") as file:
        content = json.load(file)
    return {"seconds": time.perf_counter() - start, "annotations": len(content["annotations"])}


def pycocotools(folder: Path, _: int) -> Numbers:
    """Its index of the file."""
    from pycocotools.coco import COCO

    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        found = COCO(str(folder / THEIRS))
    spent = time.perf_counter() - start
    first = itertools.islice(found.anns.values(), COMPARED)
    texts = [[one["image_id"], _as_text(found.annToRLE(one)["counts"])] for one in first]
    return {"seconds": spent, "annotations": len(found.anns), "digest": digest(texts)}


def _as_text(counts: str | bytes) -> str:
    return counts if isinstance(counts, str) else counts.decode("ascii")


def imports(_: Path, count: int) -> Numbers:
    """Nothing."""
    return {"seconds": 0.0, "annotations": count}


PHASES: dict[str, Callable[[Path, int], Numbers]] = {
    "imports": imports,
    "theirs": make_theirs,
    "write": write,
    "read back": read_back,
    "index": index,
    "records": read_records,
    "json": load_json,
    "pycocotools": pycocotools,
}


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run_phase(phase: str, folder: Path, count: int) -> Numbers:
    """A phase in a process of its own; what it found, and its peak memory in MiB."""
    print(phase, file=sys.stderr)
    command = [sys.executable, "-m", "benchmarks.coco_io", f"--annotations={count}", f"--phase={phase}"]
    done = subprocess.run([*command, f"--folder={folder}"], check=True, stdout=subprocess.PIPE, text=True)
    found: Numbers = json.loads(done.stdout)
    return found


def summary(found: Numbers) -> dict[str, timing.Json]:
    """A phase's numbers for the line."""
    speed = (
        {"annotations/s": timing.round3(found["annotations"] / found["seconds"])} if found["seconds"] else {}
    )
    return {"s": timing.round3(found["seconds"]), **speed, "peak MiB": found["peak"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the line; with `--phase` do that one and print what it found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=int, default=1_000_000)
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.phase:
        found = PHASES[given.phase](given.folder, given.annotations)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps({**found, "peak": peak}))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        phases = {phase: run_phase(phase, folder, given.annotations) for phase in PHASES}
        mebibytes = {file: round((folder / file).stat().st_size / 2**20) for file in (THEIRS, OURS)}
    checks = {
        "every annotation": {found["annotations"] for found in phases.values()} == {given.annotations},
        "what was written": phases["read back"]["digest"] == phases["write"]["digest"],
        "same masks": phases["records"]["digest"] == phases["pycocotools"]["digest"],
    }
    del phases["theirs"]
    numbers = {phase: summary(found) for phase, found in phases.items()}
    head = {
        "annotations": given.annotations,
        "images": -(-given.annotations // AN_IMAGE),
        "file MiB": mebibytes,
    }
    return timing.finish("coco_io", {**head, **numbers}, checks)


if __name__ == "__main__":
    sys.exit(main())
