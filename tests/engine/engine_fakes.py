"""Small stages that need no model: they read text files, write numbers into records, and can be told to misbehave."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar

from pydantic import JsonValue

from pipeline.data.errors import BadInput
from pipeline.data.records import Instance, Ontology, Origin, Prompt, Record, Role, Source
from pipeline.engine.chain import Link
from pipeline.engine.plan import PlannedStage, RunPlan, label_stages
from pipeline.engine.stage import (
    JobStage,
    MapConfig,
    MapStage,
    Metrics,
    Records,
    Resources,
    Stage,
    StageConfig,
    Stopped,
    TrainContext,
    WorkerContext,
)
from pipeline.engine.streams import write_records
from pipeline.engine.tasks import StageTask


def make_record(image_id: int, **changes: object) -> Record:
    role = Role.HUMAN_MASKED if image_id % 10 == 0 else Role.WEAK
    record = Record(image_id, f"{image_id}.txt", f"sha-{image_id}", 8, 8, "train", role, tags=(1,))
    return replace(record, **changes)


class FakeIngestConfig(StageConfig):
    images: int = 40
    extra: tuple[int, ...] = ()
    bad_annotations: int = 0
    bad_images: int = 0
    deadly: tuple[int, ...] = ()  # these kill the worker when they are read
    endless: tuple[int, ...] = ()  # these never come to an end
    trap: str = ""  # a file: with it, a deadly image kills only while this exists
    calls: str = ""  # a file that gets a line for every image that was read


class FakeIngest(JobStage):
    name = "ingest"
    version = 1
    Config = FakeIngestConfig
    produces = "ingest"
    parts = ("dataset", "truth")
    publishes: ClassVar = {"dataset/quarantine.json": "quarantine.json"}

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, FakeIngestConfig)
        self.config = config

    def run(self, data: Records, context: TrainContext) -> Metrics:  # noqa: ARG002
        ids = [*range(1, self.config.images + 1), *self.config.extra]
        bad = [{"entry": str(name), "reason": why} for name, why in context.in_hand.poison.items()]
        for image_id in sorted(ids, key=lambda one: f"image {one}" not in context.in_hand.suspects):
            self._read(image_id, f"image {image_id}", context)
        ids = [image_id for image_id in ids if f"image {image_id}" not in context.in_hand.poison]
        dataset = context.out / "dataset"
        write_records(dataset / "records", map(make_record, ids), unit_size=8)
        categories = [{"id": 1, "name": "thing"}]
        (dataset / "ontology.json").write_text(json.dumps({"categories": categories}))
        (dataset / "images").mkdir()
        for image_id in ids:
            (dataset / "images" / f"{image_id}.txt").write_text(str(image_id))
        (context.out / "truth").mkdir()
        (context.out / "truth" / "secret.txt").write_text("hidden")
        bad += [{"entry": f"image {i}", "reason": "cut short"} for i in range(self.config.bad_images)]
        wrong = [
            {"entry": f"annotations[{i}]", "reason": "no mask"} for i in range(self.config.bad_annotations)
        ]
        (dataset / "quarantine.json").write_text(json.dumps({"images": bad, "annotations": wrong}))
        count = len(ids) + len(bad)
        return {
            "images": count,
            "bad_images": len(bad),
            "annotations": 100,
            "bad_annotations": len(wrong),
        }

    def _read(self, image_id: int, name: str, context: TrainContext) -> None:
        """Takes also the image after it in hand, as threads would, unless it is suspected."""
        if name in context.in_hand.poison:
            return
        beside = [] if name in context.in_hand.suspects else [f"image {image_id + 1}"]
        context.in_hand.take([name, *beside])
        if image_id in self.config.deadly and (not self.config.trap or os.path.exists(self.config.trap)):
            os.kill(os.getpid(), signal.SIGSEGV)
        if image_id in self.config.endless:
            time.sleep(3600)
        context.in_hand.drop([name, *beside])
        if self.config.calls:
            with open(self.config.calls, "a") as file:
                file.write(f"{image_id}\n")


class FakeMapConfig(MapConfig):
    unit_size: int = 8
    batch_size: int = 4
    unreadable: tuple[int, ...] = ()
    deadly: tuple[int, ...] = ()  # these kill the worker when the model sees them
    deadly_load: tuple[int, ...] = ()
    deadly_setup: bool = False
    slow_setup: float = 0.0
    endless: tuple[int, ...] = ()  # these never come to an end
    greedy: tuple[int, ...] = ()  # these take memory for ever
    refused: tuple[int, ...] = ()  # these ask for more than there is when they are loaded
    refusal: str = ""  # the model asks for more than there is, and says so in these words
    trap: str = ""  # a file: with it, a deadly image kills only while this exists, and removes it
    delay: float = 0.0
    fault: str = ""
    calls: str = ""  # a file that gets a line for every call of the model


class FakePropose(MapStage[tuple[Record, int]]):
    """Each image's proposal has the score sum(batch)/1000 at its own place only: depends on its own pixels alone."""

    name = "propose"
    version = 1
    Config = FakeMapConfig
    adds = frozenset({"proposals"})
    roles = frozenset({Role.WEAK})
    config: FakeMapConfig

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, FakeMapConfig)
        self.config = config

    def setup(self, context: WorkerContext) -> None:
        if self.config.deadly_setup:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.config.slow_setup)
        self.root = context.images_root
        self.used = sorted(context.artifacts)

    def load(self, record: Record) -> tuple[Record, int]:
        if record.image_id in self.config.deadly_load:
            os.kill(os.getpid(), signal.SIGKILL)
        if record.image_id in self.config.unreadable or not (self.root / record.uri).exists():
            raise BadInput(f"image {self.root / record.uri}: cannot be read")
        if record.image_id in self.config.refused:
            raise MemoryError("out of memory")
        return record, int((self.root / record.uri).read_text())

    def blank(self, record: Record) -> tuple[Record, int]:
        return record, 0

    def __call__(self, batch: Sequence[tuple[Record, int]]) -> list[Record]:
        seen = [value for _, value in batch]
        if self.config.calls:
            with open(self.config.calls, "a") as file:
                file.write(json.dumps(seen) + "\n")
        assert len(batch) == self.config.batch_size
        time.sleep(self.config.delay)
        self._misbehave(seen)
        made = [self._see(record, value) for record, value in batch]
        if self.config.fault == "short":
            return made[:-1]
        if self.config.fault == "order":
            return made[::-1]
        if self.config.fault == "field":
            return [replace(record, split="other") for record in made]
        return made

    def _see(self, record: Record, value: int) -> Record:
        prompt = Prompt(Origin.DINO, box_xyxy=(0.0, 0.0, 4.0, 4.0), class_id=1, score=value / 1000)
        return replace(record, proposals=(prompt,))

    def _misbehave(self, seen: Sequence[int]) -> None:
        if self.config.refusal:
            raise RuntimeError(self.config.refusal)
        if self.config.fault == "error":
            raise ArithmeticError("the model broke")
        if not {*seen}.isdisjoint(self.config.endless):
            time.sleep(3600)
        taken = []
        while not {*seen}.isdisjoint(self.config.greedy):
            taken.append(b"x" * (1 << 26))
            time.sleep(0.01)
        for image_id in self.config.deadly:
            if image_id not in seen or (self.config.trap and not os.path.exists(self.config.trap)):
                continue
            if self.config.trap:
                os.unlink(self.config.trap)
            os.kill(os.getpid(), signal.SIGKILL)


class FakeLabel(FakePropose):
    """Turns proposals into teacher instances."""

    name = "pseudo_label"
    needs = frozenset({"proposals"})
    adds = frozenset({"instances"})
    may_use = ("teacher",)

    def _see(self, record: Record, value: int) -> Record:  # noqa: ARG002
        made = [
            Instance(Source.TEACHER, class_id=1, box_xyxy=p.box_xyxy, score=p.score) for p in record.proposals
        ]
        return replace(record, instances=tuple(made))


class FakeTrainConfig(StageConfig):
    steps: int = 5
    delay: float = 0.0
    crash_at: int | None = None
    repeat: bool = False  # crash at this step and all later ones
    model: str = ""
    calls: str = ""  # a file that gets a line for every step


class FakeTrain(JobStage):
    """Counts its steps in a checkpoint; the artifact tells in how many attempts it was made."""

    name = "finetune_teacher"
    version = 1
    Config = FakeTrainConfig
    roles = frozenset({Role.HUMAN_MASKED})

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, FakeTrainConfig)
        self.config = config
        self.produces = f"student.{config.model}" if config.model else "teacher"

    def run(self, data: Records, context: TrainContext) -> Metrics:
        checkpoint = context.workdir / "step"
        step = int(checkpoint.read_text()) if checkpoint.exists() else 0
        while step < self.config.steps:
            if context.should_stop():
                raise Stopped("stopped")
            step += 1
            checkpoint.write_text(str(step))
            if self.config.calls:
                with open(self.config.calls, "a") as file:
                    file.write(f"{step}\n")
            context.progress(step, self.config.steps, "steps")
            time.sleep(self.config.delay)
            crash = self.config.crash_at
            if step == crash or (self.config.repeat and crash is not None and step > crash):
                os.kill(os.getpid(), signal.SIGSEGV)
        ids = [record.image_id for record in data]
        assert ids == sorted(ids)
        assert len(ids) == len(data)
        (context.out / "weights.txt").write_text(f"{context.seed} {self.config.steps} {ids}")
        return {"steps": step}


class FakeExport(JobStage):
    name = "export"
    version = 1
    Config = StageConfig
    may_use = ("teacher", "student.*")
    produces = "export"
    publishes: ClassVar = {"coco": "export/coco", "table.json": "table.json"}

    def __init__(self, config: StageConfig) -> None:
        self.config = config

    def run(self, data: Records, context: TrainContext) -> Metrics:
        rows = [
            {
                "id": record.image_id,
                "scores": [instance.score for instance in record.instances],
                "dropped": record.dropped,
            }
            for record in data
        ]
        (context.out / "coco").mkdir()
        (context.out / "coco" / "train.json").write_text(json.dumps(rows))
        (context.out / "table.json").write_text(json.dumps({"uses": sorted(context.artifacts)}))
        return {"images": len(rows)}


class Thief(FakeExport):
    """Asks for what only `evaluate` may read."""

    name = "export"
    uses = ("truth",)


class Bill(FakeExport):
    """Tells the seconds of the stages before it."""

    name = "cost"
    produces = "cost"
    reads_timings = True
    publishes: ClassVar = {"table.json": "cost.json"}

    def run(self, data: Records, context: TrainContext) -> Metrics:  # noqa: ARG002
        (context.out / "table.json").write_text(json.dumps(dict(context.timings)))
        return {}


class Label(FakeExport):
    """Tells what run it is in."""

    name = "report"
    produces = "report"
    reads_run = True
    publishes: ClassVar = {"table.json": "report.json"}

    def run(self, data: Records, context: TrainContext) -> Metrics:  # noqa: ARG002
        assert context.run is not None
        (context.out / "table.json").write_text(json.dumps(asdict(context.run)))
        return {}


class Threads(FakeExport):
    """Tells how many threads torch has, which it imports as late as a stage can."""

    name = "threads"
    publishes: ClassVar = {"table.json": "threads.json"}

    def run(self, data: Records, context: TrainContext) -> Metrics:  # noqa: ARG002
        import torch

        (context.out / "table.json").write_text(json.dumps(torch.get_num_threads()))
        return {}


class Evaluate(FakeExport):
    name = "evaluate"
    uses = ("truth",)
    produces = "metrics"
    publishes: ClassVar = {"table.json": "metrics.json"}


def make_plan(*stages: tuple[type[Stage], StageConfig], **changes: object) -> RunPlan:
    labels = label_stages(stages)
    planned = tuple(
        PlannedStage(label, stage, config, Resources(cpus=1, gpus=0, memory_gb=None))
        for label, (stage, config) in zip(labels, stages, strict=True)
    )
    resolved: dict[str, JsonValue] = {
        "seed": 0,
        "stages": [{p.label: p.config.model_dump(mode="json")} for p in planned],
    }
    plan = RunPlan(
        name="fake",
        seed=0,
        device="cpu",
        torch_threads=1,
        max_bad=0.5,
        stall_timeout=60.0,
        image_timeout=60.0,
        stages=planned,
        data_root=Path(),
        images=None,
        resolved=resolved,
    )
    return replace(plan, **changes)


def chain(
    *,
    ingest: FakeIngestConfig | None = None,
    propose: FakeMapConfig | None = None,
    label: FakeMapConfig | None = None,
    train: FakeTrainConfig | None = None,
) -> RunPlan:
    """ingest -> finetune_teacher -> propose -> pseudo_label -> export."""
    return make_plan(
        (FakeIngest, ingest or FakeIngestConfig()),
        (FakeTrain, train or FakeTrainConfig()),
        (FakePropose, propose or FakeMapConfig()),
        (FakeLabel, label or FakeMapConfig(unit_size=16)),
        (FakeExport, StageConfig()),
    )


def dead_temp_name() -> str:
    """A name as a process gives it that is over by now."""
    code = "from pathlib import Path; from pipeline.engine.files import temp_name; print(temp_name(Path()))"
    gone = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return gone.stdout.strip()


def make_links(folder: Path, *unit_sizes: int) -> list[Link]:
    """propose and pseudo_label as the links of a chain, with these unit sizes."""
    first, second = (FakeMapConfig(unit_size=size) for size in unit_sizes)
    plan = make_plan((FakeIngest, FakeIngestConfig()), (FakePropose, first), (FakeLabel, second))
    context = WorkerContext("cpu", Ontology(()), folder, {})
    return [
        Link(p, StageTask(p.label, p.stage, p.config.model_dump_json(), context, 1), p.label)
        for p in plan.stages[1:]
    ]
