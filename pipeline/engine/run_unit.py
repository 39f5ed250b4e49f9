"""The one place that calls a map stage: a unit's records in, the same records out, each knowing more.

Images are loaded in threads ahead of the model. A batch is the next `batch_size` images in image_id order,
filled up with blanks, so an image's result depends on no neighbour: one that cannot be read is replaced by a
blank, and after a crash each suspect is run alone in its own place among blanks.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

from pipeline.data.arrow import to_table
from pipeline.data.errors import BadInput
from pipeline.data.paths import Place
from pipeline.data.records import Record
from pipeline.engine.context import Stopped
from pipeline.engine.faults import StageFailed
from pipeline.engine.keys import key_with_losses
from pipeline.engine.machine import Heartbeat, Name
from pipeline.engine.stage import MapConfig, MapStage
from pipeline.engine.store import Store
from pipeline.engine.tasks import Alive, Progress, UnitDone, UnitTask
from pipeline.engine.units import Timing, read_unit

LOAD_THREADS = 2
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Surroundings:
    """What running a unit needs of its worker."""

    store: Store
    heartbeat: Heartbeat
    progress: Callable[[Progress | Alive], None]
    should_stop: Callable[[], bool]


@dataclass(frozen=True)
class Image:
    """A record with what its stage loaded for it, or with the reason why there is nothing."""

    record: Record
    loaded: object = None
    bad: str | None = None


@dataclass(frozen=True)
class Call:
    """One call of the model: the records of a batch, and the images to work on by place; the others are
    blank.
    """

    batch: Sequence[Record]
    images: Mapping[int, Image]


def run_unit(stage: MapStage[object], task: UnitTask, around: Surroundings) -> UnitDone:
    """Make one unit and commit it. StageFailed if the stage breaks its contract, Stopped when asked to stop.

    A unit that lacks an image is committed under another key (`key_with_losses`), so that the next run tries again.
    """
    start = time.perf_counter()
    around.heartbeat.begin(f"{task.stage.label} unit {task.source.bucket.name}")
    records = read_unit(task.source.parts, task.source.bucket)
    todo = [record for record in records if record.dropped is None and record.role in stage.roles]
    made: dict[int, Record] = {}
    lost: dict[Name, str] = {}
    for call in _calls(stage, todo, task, around):
        if around.should_stop():
            raise Stopped(f"{task.stage.label}: stopped within unit {task.source.bucket.name}")
        results = _run_call(stage, call, _batch_size(task))
        made.update((record.image_id, record) for record in results)
        lost.update((i.record.image_id, i.bad) for i in call.images.values() if i.bad is not None)
        around.heartbeat.drop(record.image_id for record in results)
        if any(image.bad is None for image in call.images.values()):
            around.progress(Progress(len(made), len(todo)))
    timing = Timing(time.perf_counter() - start, len(todo))
    key = key_with_losses(task.key, lost) if lost else task.key
    around.store.commit_unit(
        key, to_table([made.get(r.image_id, r) for r in records]), timing, redo=task.redo
    )
    return UnitDone(task.key, key, timing.images, timing.seconds)


def _batch_size(task: UnitTask) -> int:
    config = task.stage.stage.Config.model_validate_json(task.stage.config)
    assert isinstance(config, MapConfig)
    return config.batch_size


def _calls(
    stage: MapStage[object], todo: Sequence[Record], task: UnitTask, around: Surroundings
) -> Iterator[Call]:
    """Batches in image_id order, loaded ahead in threads, or one image at a time where a crash is traced."""
    size = _batch_size(task)
    batches = [todo[start : start + size] for start in range(0, len(todo), size)]

    def load(record: Record) -> Image:
        if record.image_id in task.poison:
            return Image(record, bad=task.poison[record.image_id])
        around.heartbeat.take([record.image_id])
        return _load(stage, record, task.stage.context.images_root)

    if not task.suspects:
        yield from _ahead(batches, load)
        return
    for batch in batches:
        if task.suspects.isdisjoint(record.image_id for record in batch):
            yield Call(batch, dict(enumerate(map(load, batch))))
        else:  # nothing else may be in hand, or its death would be laid at this image's door
            for place, record in enumerate(batch):
                yield Call(batch, {place: load(record)})


def _ahead(batches: Sequence[Sequence[Record]], load: Callable[[Record], Image]) -> Iterator[Call]:
    waiting: deque[tuple[Sequence[Record], list[Future[Image]]]] = deque()

    def take() -> Call:
        batch, futures = waiting.popleft()
        return Call(batch, {place: future.result() for place, future in enumerate(futures)})

    pool = ThreadPoolExecutor(LOAD_THREADS)
    try:
        for batch in batches:
            waiting.append((batch, [pool.submit(load, record) for record in batch]))
            if len(waiting) > BATCHES_AHEAD:
                yield take()
        while waiting:
            yield take()
    finally:
        pool.shutdown(cancel_futures=True)


def _load(stage: MapStage[object], record: Record, root: Place) -> Image:
    try:
        return Image(record, loaded=stage.load(record))
    except BadInput as error:
        # A unit's bytes must not tell where the images lay.
        return Image(record, bad=str(error).replace(f"{root}/", ""))


def _run_call(stage: MapStage[object], call: Call, size: int) -> list[Record]:
    good = {place: image for place, image in call.images.items() if image.bad is None}
    results = [replace(i.record, dropped=i.bad) for i in call.images.values() if i.bad is not None]
    if not good:
        return results
    inputs = [good[place].loaded if place in good else stage.blank(r) for place, r in enumerate(call.batch)]
    inputs += [stage.blank(_unlabelled(call.batch[-1])) for _ in range(size - len(inputs))]
    outputs = stage(inputs)
    if len(outputs) != len(inputs):
        raise StageFailed(f"{stage.name}: expected {len(inputs)} records for a batch, got {len(outputs)}")
    for place, image in good.items():
        _check(stage, image.record, outputs[place])
        results.append(outputs[place])
    return results


def _unlabelled(record: Record) -> Record:
    """The image with nothing on it that a model could be asked about: it fills a batch and costs next to nothing."""
    return replace(record, tags=(), instances=(), proposals=(), instructions=())


def _check(stage: MapStage[object], given: Record, made: Record) -> None:
    """Only what the stage says it adds may differ; order is proved by the ids."""
    if given.image_id != made.image_id:
        raise StageFailed(f"{stage.name}: expected image {given.image_id} in its place, got {made.image_id}")
    allowed = {*stage.adds, "dropped"}
    for field in fields(Record):
        if field.name not in allowed and getattr(given, field.name) != getattr(made, field.name):
            raise StageFailed(
                f"{stage.name}: changed `{field.name}` of image {given.image_id}; it may change {sorted(allowed)}"
            )
