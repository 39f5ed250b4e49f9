"""The log of a run while it goes on: written before work starts, after each stage, and not at all by a no-op."""

from collections.abc import Sequence

from pydantic import JsonValue

from pipeline.engine.machine import versions
from pipeline.engine.plan import RunPlan
from pipeline.engine.rundir import RunFolder, RunLog, StageLog, config_digest
from pipeline.engine.stage import MapStage


class Logbook:
    """Keeps `run.json` and the key lists; a finished run that stays as it was is not touched."""

    def __init__(self, plan: RunPlan, folder: RunFolder, store: str) -> None:
        self._plan, self._folder, self._store = plan, folder, store
        self._before = folder.read_log()
        self._log: RunLog | None = None
        self._writing = False
        self._stages = [
            StageLog(planned.label, "map" if issubclass(planned.stage, MapStage) else "job")
            for planned in plan.stages
        ]

    def start(self, data_digest: str) -> None:
        """What is known before work starts; written now unless an equal run is complete here."""
        plan = self._plan
        self._log = RunLog(
            name=plan.name,
            state="running",
            seed=plan.seed,
            device=plan.device,
            torch_threads=plan.torch_threads,
            data_digest=data_digest,
            config_digest=config_digest(plan.resolved),
            store=self._store,
            data_root=str(plan.data_root),
            versions=versions(),
            stages=self._stages,
        )
        before = self._before
        if before is None or before.state != "done" or before.data_digest != data_digest:
            self._begin()

    def stage(self, number: int) -> StageLog:
        """The entry of a stage, to be filled in."""
        return self._stages[number]

    def planned(self, number: int, keys: Sequence[str], *, units: int, missing: int) -> StageLog:
        """The keys of a stage's `units` results are known, or the first of them; so many have to be made."""
        log = self._stages[number]
        log.units, log.made, log.state = units, missing, "running"
        if missing:
            self._begin()
        if self._folder.read_keys(number) != list(keys):
            self._begin()
            self._folder.write_keys(number, keys)
        self._write()
        return log

    def stage_done(self, number: int) -> None:
        """A stage is complete."""
        self._stages[number].state = "done"
        self._write()

    def published(self, changed: int) -> None:
        """So many outputs were placed in the run folder."""
        if changed:
            self._begin()

    def records_digest(self, digest: str) -> None:
        """Digest of all records after ingest."""
        assert self._log is not None
        self._log.records_digest = digest

    def quarantined(self, examples: list[dict[str, JsonValue]]) -> None:
        """Images left out so far, with reasons."""
        assert self._log is not None
        self._log.quarantine = list(examples)

    def fail(self, reason: str) -> None:
        """The run ended early."""
        if self._log is not None:
            self._begin()
            self._log.state = f"ended: {reason}"
            self._write()

    def finish(self) -> bool:
        """The run is complete; whether anything had to be done."""
        assert self._log is not None
        self._log.state = "done"
        self._write()
        return self._writing

    def _begin(self) -> None:
        if not self._writing:
            self._writing = True
            self._folder.write_config(self._plan.resolved)
            self._write()

    def _write(self) -> None:
        if self._writing and self._log is not None:
            self._folder.write_log(self._log)
