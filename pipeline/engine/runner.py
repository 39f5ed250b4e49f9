"""The runner: goes through a plan's stages in order, makes what the store does not have, keeps the run folder
true.
"""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path

from pipeline.data.errors import BadInput
from pipeline.data.records import Category, Ontology, Role
from pipeline.engine.artifact import Artifact, lend
from pipeline.engine.chain import Link
from pipeline.engine.context import RunFacts, WorkerContext
from pipeline.engine.display import Display
from pipeline.engine.engine import Engine
from pipeline.engine.faults import BadPlan, RunFault
from pipeline.engine.keys import Setting, config_content, digest_of, job_key, stage_digest
from pipeline.engine.known import Known
from pipeline.engine.machine import versions
from pipeline.engine.map_run import Books, MapRun
from pipeline.engine.plan import DATASET, PlannedStage, RunPlan, matching, prove
from pipeline.engine.quarantine import Quarantine, dropped_of
from pipeline.engine.rundir import RunFolder, config_text
from pipeline.engine.runlog import Logbook
from pipeline.engine.signals import StopSignal
from pipeline.engine.stage import JobStage, MapStage, Stage
from pipeline.engine.store import Store
from pipeline.engine.streams import RecordStream
from pipeline.engine.tasks import JobTask, Limits, Progress, StageTask, named
from pipeline.engine.units import RecordSet, digest_records

GB = 1_000_000_000


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
        stop: StopSignal,
        fresh: bool = False,
    ) -> None:
        self._plan, self._folder, self._store = plan, folder, store
        self._engine, self._display, self._stop, self._fresh = engine, display, stop, fresh
        self._known = Known(artifacts={name: lend(folder) for name, folder in plan.lent.items()})
        self._log = Logbook(plan, folder, store.where)
        self._quarantine = Quarantine(plan.max_bad)
        self._told = 0  # of the store's damaged files

    def run(self) -> bool:
        """Bring the folder to its end; whether there was anything to do. A `RunFault` tells why it ended
        early.
        """
        problems = prove(self._plan.stages, self._plan.lent)
        if problems:
            raise BadPlan(tuple(problems))
        try:
            for is_map, stages in groupby(
                enumerate(self._plan.stages), lambda item: issubclass(item[1].stage, MapStage)
            ):
                if is_map:
                    self._maps(dict(stages))
                else:
                    for number, planned in stages:
                        self._job(number, planned)
        except RunFault as fault:
            self._log.fail(type(fault).__name__)
            raise
        return self._log.finish()

    def _end(self, number: int, began: float) -> None:
        """A stage is complete."""
        label, log = self._plan.stages[number].label, self._log.stage(number)
        for path in self._store.damaged[self._told :]:
            self._display.note(f"{label}: {path} was damaged and was made again")
        self._told = len(self._store.damaged)
        log.images_per_second = log.images / log.seconds if log.images and log.seconds else None
        self._known.timings[label] = log.seconds
        self._log.stage_done(number)
        self._display.end(label, seconds=time.perf_counter() - began, images=log.images)

    # Map stages

    def _maps(self, stages: Mapping[int, PlannedStage]) -> None:
        """Map stages that follow each other; they overlap."""
        books = Books(self._known, self._log, self._display, self._quarantine, self._stop)
        links = {number: self._link(planned) for number, planned in stages.items()}
        MapRun(links, books, self._store, end=self._end, fresh=self._fresh).run(self._engine)

    def _link(self, planned: PlannedStage) -> Link:
        stage = planned.build()
        return Link(planned, self._task(planned, stage), self._digest(planned, stage))

    # Jobs

    def _job(self, number: int, planned: PlannedStage) -> None:
        began = time.perf_counter()
        stage = planned.build()
        assert isinstance(stage, JobStage)
        with self._stop.interrupting():
            inputs, count = digest_records(self._known.records, stage.roles)
            identity = stage.identity(self._plan.data_root)
        if stage.reads_run:
            identity = digest_of([identity, self._plan.name, config_text(self._plan.resolved)])
        timed = self._known.timed if stage.reads_timings else {}
        shared = self._digest(planned, stage)
        key = job_key(shared, inputs=inputs, seed=self._plan.seed, identity=identity, timed=timed)
        if number == 0:
            self._log.start(digest_of([identity, config_content(planned)]))
        with self._stop.interrupting():
            artifact = None if self._fresh else self._store.find_artifact(key)
        there = [] if self._fresh else [key]  # what is to be made again does not count as there
        log = self._log.planned(number, there, units=1, missing=int(artifact is None))
        self._display.begin(planned.label, units=1, reused=int(artifact is not None), images=count)
        if artifact is not None:
            self._store.tidy_work(key)
        else:
            stream = RecordStream(self._known.records, stage.roles, count)
            task = self._job_task(planned, stage, key, stream, identity=identity)
            made = self._engine.run_job(task, partial(self._tell_job, planned.label))
            self._folder.write_keys(number, [made.key])
            with self._stop.interrupting():
                artifact = self._store.received(made)
            if made.key != key:
                self._display.note(f"{planned.label}: images ended the worker; the next run tries them again")
            self._display.advance(planned.label, units=1)
        if (world := artifact.metrics.get("world")) is not None:
            self._display.note(
                f"{planned.label}: the work of {world} processes; another number ends in other bits"
            )
        if (warning := artifact.metrics.get("warning")) is not None:
            self._display.note(f"{planned.label}: {warning}")
        log.seconds, log.images, log.metrics = artifact.seconds, count, dict(artifact.metrics)
        self._known.timed[planned.label] = artifact.key
        self._take_in(stage, artifact)
        self._log.published(self._folder.publish(artifact.folder, stage.publishes))
        if stage.parts:
            records = self._known.records
            log.quarantined = self._quarantine.count(planned.label, records.rows, dropped_of(records))
            self._log.quarantined(self._quarantine.examples)
            self._quarantine.check()
        self._end(number, began)

    def _job_task(
        self, planned: PlannedStage, stage: JobStage, key: str, stream: RecordStream, *, identity: str
    ) -> JobTask:
        makes_dataset = DATASET in stage.parts
        task = JobTask(
            stage=self._task(planned, stage),
            key=key,
            records=stream,
            seed=self._plan.seed,
            data_root=self._plan.data_root if makes_dataset else Path(),
            identity=identity if makes_dataset else "",
            timings=dict(self._known.timings) if stage.reads_timings else {},
            run=self._facts() if stage.reads_run else None,
            redo=self._fresh,
        )
        return named(task, self._store)

    def _facts(self) -> RunFacts:
        day = datetime.now(UTC).date().isoformat()
        return RunFacts(self._plan.name, day, config_text(self._plan.resolved), versions())

    def _tell_job(self, label: str, progress: Progress) -> None:
        self._display.job(label, progress.done, progress.total, progress.note)

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
        used = self._used(stage)
        dataset = self._known.artifacts.get(DATASET)
        pictures = self._plan.data_root if dataset is None else dataset.folder / "images"
        context = WorkerContext(
            device=self._plan.device,
            ontology=self._known.ontology,
            images_root=self._plan.images or pictures,
            artifacts={name: artifact.folder for name, artifact in used.items()},
        )
        digests = {name: artifact.digest for name, artifact in used.items()}
        config = planned.config.model_dump_json(by_alias=True)
        memory = planned.resources.memory_gb
        limits = Limits(
            image_seconds=self._plan.image_timeout,
            stall_seconds=self._plan.stall_timeout,
            memory=None if memory is None else int(memory * GB),
        )
        threads = self._plan.torch_threads
        return StageTask(planned.label, planned.stage, config, context, threads, limits, digests)


def read_ontology(path: Path) -> Ontology:
    """The classes that ingest left: {"categories": [{"id", "name", "supercategory"}]}; BadInput otherwise."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["categories"]
        return Ontology(tuple(Category(row["id"], row["name"], row.get("supercategory")) for row in rows))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: expected an object with `categories`: {error}") from error
