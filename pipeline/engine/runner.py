"""The runner: goes through a plan's stages in order, makes what the store does not have, keeps the run folder
true.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pipeline.data.errors import BadInput
from pipeline.data.records import Category, Ontology, Role
from pipeline.engine.artifact import Artifact, lend
from pipeline.engine.context import RunFacts, WorkerContext
from pipeline.engine.display import Display
from pipeline.engine.faults import BadPlan, RunFault
from pipeline.engine.keys import Setting, config_content, digest_of, job_key, stage_digest, unit_key
from pipeline.engine.local import Engine
from pipeline.engine.machine import versions
from pipeline.engine.plan import DATASET, PlannedStage, RunPlan, matching, prove
from pipeline.engine.quarantine import Quarantine
from pipeline.engine.rundir import RunFolder, StageLog, config_text
from pipeline.engine.runlog import Logbook
from pipeline.engine.stage import JobStage, MapConfig, MapStage, Stage
from pipeline.engine.store import Store
from pipeline.engine.streams import RecordStream
from pipeline.engine.tasks import JobTask, Progress, StageTask, UnitTask
from pipeline.engine.units import Part, RecordSet, UnitInput, digest_records, plan_units

EMPTY = RecordSet((), 0)


@dataclass
class Known:
    """What the stages so far have left: the records as they are now, artifacts by name, classes, times."""

    records: RecordSet = EMPTY
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    ontology: Ontology = field(default_factory=lambda: Ontology(()))
    ontology_digest: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    timed: dict[str, str] = field(default_factory=dict)  # label -> digest of the keys its time is of


class Runner:
    """One run of one plan in one folder (which the caller has locked)."""

    def __init__(
        self,
        plan: RunPlan,
        folder: RunFolder,
        *,
        store: Store,
        engine: Engine,
        display: Display,
        fresh: bool = False,
    ) -> None:
        self._plan, self._folder, self._store = plan, folder, store
        self._engine, self._display, self._fresh = engine, display, fresh
        self._known = Known(artifacts={name: lend(folder) for name, folder in plan.lent.items()})
        self._log = Logbook(plan, folder, store.root)
        self._quarantine = Quarantine(plan.max_bad)

    def run(self) -> bool:
        """Bring the folder to its end; whether there was anything to do. A `RunFault` tells why it ended
        early.
        """
        problems = prove(self._plan.stages, self._plan.lent)
        if problems:
            raise BadPlan(tuple(problems))
        try:
            for number, planned in enumerate(self._plan.stages):
                self._stage(number, planned)
        except RunFault as fault:
            self._log.fail(type(fault).__name__)
            raise
        return self._log.finish()

    def _stage(self, number: int, planned: PlannedStage) -> None:
        stage = planned.build()
        log = self._log.stage(number)
        before, start = len(self._store.damaged), time.perf_counter()
        if isinstance(stage, MapStage):
            self._map(number, planned, stage)
        else:
            assert isinstance(stage, JobStage)
            self._job(number, planned, stage)
        for path in self._store.damaged[before:]:
            self._display.note(f"{planned.label}: {path} was damaged and was made again")
        wall = time.perf_counter() - start
        log.images_per_second = log.images / log.seconds if log.images and log.seconds else None
        self._known.timings[planned.label] = log.seconds
        self._log.stage_done(number)
        self._display.end(planned.label, seconds=wall, images=log.images)

    # Map stages

    def _map(self, number: int, planned: PlannedStage, stage: MapStage[object]) -> None:
        assert isinstance(planned.config, MapConfig)
        shared = self._digest(planned, stage)
        units = list(plan_units(self._known.records, planned.config.unit_size))
        keys = [unit_key(shared, unit.bucket.name, unit.digest) for unit in units]
        missing = [
            (k, u) for k, u in zip(keys, units, strict=True) if self._fresh or not self._store.has_unit(k)
        ]
        log = self._log.planned(number, keys, missing=len(missing))
        left = sum(unit.rows for _, unit in missing)
        self._display.begin(planned.label, units=len(keys), reused=len(keys) - len(missing), images=left)
        made = self._make_units(self._task(planned, stage), missing)
        kept = [made.get(key, key) for key in keys]
        if kept != keys:
            self._display.note(
                f"{planned.label}: images could not be read or ended the worker; the next run tries them again"
            )
        timings = [self._store.unit_timing(key) for key in kept]
        log.seconds, log.images = sum(t.seconds for t in timings), sum(t.images for t in timings)
        self._known.timed[planned.label] = digest_of(list(kept))
        parts = tuple(Part(u.bucket, self._store.unit_path(k)) for k, u in zip(kept, units, strict=True))
        self._known.records = RecordSet(parts, self._known.records.rows)
        self._count_bad(planned.label, log)

    def _make_units(self, task: StageTask, missing: list[tuple[str, UnitInput]]) -> dict[str, str]:
        """The keys under which the units were committed, by the keys they were planned with."""
        seen = 0
        made: dict[str, str] = {}

        def advance(progress: Progress) -> None:
            nonlocal seen
            if progress.done > seen:
                self._display.advance(images=progress.done - seen)
                seen = progress.done

        for done in self._engine.run_units((UnitTask(task, key, unit) for key, unit in missing), advance):
            self._display.advance(units=1, images=max(0, done.images - seen))
            made[done.key] = done.made
            seen = 0
        return made

    # Jobs

    def _job(self, number: int, planned: PlannedStage, stage: JobStage) -> None:
        inputs, count = digest_records(self._known.records, stage.roles)
        identity = stage.identity(self._plan.data_root)
        if stage.reads_run:
            identity = digest_of([identity, self._plan.name, config_text(self._plan.resolved)])
        timed = self._known.timed if stage.reads_timings else {}
        shared = self._digest(planned, stage)
        key = job_key(shared, inputs=inputs, seed=self._plan.seed, identity=identity, timed=timed)
        if number == 0:
            self._log.start(digest_of([identity, config_content(planned)]))
        artifact = None if self._fresh else self._store.find_artifact(key)
        log = self._log.planned(number, [key], missing=int(artifact is None))
        self._display.begin(planned.label, units=1, reused=int(artifact is not None), images=count)
        if artifact is None:
            stream = RecordStream(self._known.records, stage.roles, count)
            artifact = self._engine.run_job(self._job_task(planned, stage, key, stream), self._tell_job)
            self._display.advance(units=1)
        log.seconds, log.images, log.metrics = artifact.seconds, count, dict(artifact.metrics)
        self._known.timed[planned.label] = key
        self._take_in(stage, artifact)
        self._log.published(self._folder.publish(artifact.folder, stage.publishes))
        if stage.parts:
            self._count_bad(planned.label, log)

    def _job_task(self, planned: PlannedStage, stage: JobStage, key: str, stream: RecordStream) -> JobTask:
        return JobTask(
            stage=self._task(planned, stage),
            key=key,
            records=stream,
            seed=self._plan.seed,
            data_root=self._plan.data_root if DATASET in stage.parts else Path(),
            timings=dict(self._known.timings) if stage.reads_timings else {},
            run=self._facts() if stage.reads_run else None,
            redo=self._fresh,
        )

    def _facts(self) -> RunFacts:
        day = datetime.now(UTC).date().isoformat()
        return RunFacts(self._plan.name, day, config_text(self._plan.resolved), versions())

    def _tell_job(self, progress: Progress) -> None:
        self._display.job(progress.done, progress.total, progress.note)

    def _take_in(self, stage: JobStage, artifact: Artifact) -> None:
        made = {part: artifact.part(part) for part in stage.parts} or {stage.produces: artifact}
        self._known.artifacts |= made
        if DATASET in made:
            dataset = made[DATASET]
            self._known.records = RecordSet.of_folder(dataset.folder / "records")
            self._known.ontology = read_ontology(dataset.folder / "ontology.json")
            self._known.ontology_digest = dataset.files["ontology.json"]
            listing = dataset.folder / "quarantine.json"
            self._quarantine.before(artifact.metrics, label=stage.name, listing=listing)
            self._log.records_digest(digest_records(self._known.records, frozenset(Role))[0])

    # Both

    def _used(self, stage: Stage) -> Mapping[str, Artifact]:
        names = [
            name
            for pattern in (*stage.uses, *stage.may_use)
            for name in matching(pattern, tuple(self._known.artifacts))
        ]
        return {name: self._known.artifacts[name] for name in sorted(set(names))}

    def _digest(self, planned: PlannedStage, stage: Stage) -> str:
        return stage_digest(
            planned,
            artifacts={name: artifact.digest for name, artifact in self._used(stage).items()},
            setting=Setting(self._plan.device_type, self._plan.torch_threads, self._known.ontology_digest),
        )

    def _task(self, planned: PlannedStage, stage: Stage) -> StageTask:
        dataset = self._known.artifacts.get(DATASET)
        pictures = self._plan.data_root if dataset is None else dataset.folder / "images"
        context = WorkerContext(
            device=self._plan.device,
            ontology=self._known.ontology,
            images_root=self._plan.images or pictures,
            artifacts={name: artifact.folder for name, artifact in self._used(stage).items()},
        )
        config = planned.config.model_dump_json(by_alias=True)
        return StageTask(planned.label, planned.stage, config, context, self._plan.torch_threads)

    def _count_bad(self, label: str, log: StageLog) -> None:
        log.quarantined = self._quarantine.count(label, self._known.records)
        self._log.quarantined(self._quarantine.examples)
        self._quarantine.check()


def read_ontology(path: Path) -> Ontology:
    """The classes that ingest left: {"categories": [{"id", "name", "supercategory"}]}; BadInput otherwise."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["categories"]
        return Ontology(tuple(Category(row["id"], row["name"], row.get("supercategory")) for row in rows))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: expected an object with `categories`: {error}") from error
