"""What an engine is: it gets units and jobs done somewhere, by the same `run_unit` and `run_job` everywhere."""

from collections.abc import Callable, Iterator
from typing import Protocol

from pipeline.engine.artifact import Artifact
from pipeline.engine.faults import BadPlan, StageFailed, Stalled
from pipeline.engine.plan import PlannedStage
from pipeline.engine.signals import StopSignal
from pipeline.engine.tasks import JobTask, Progress, Report, UnitDone, UnitTask, WorkerFailed

Advance = Callable[[str, int], None]  # so many more images are done in the stage of that label


class Work(Protocol):
    """Units of one or more stages. One that is made may make others ready, so ask again after each."""

    @property
    def stages(self) -> tuple[PlannedStage, ...]: ...

    def take(self, label: str | None = None) -> UnitTask | None:
        """A unit that can be made now, of that stage or of the earliest that has one; None if there is none."""
        ...

    def waiting(self, label: str) -> int:
        """How many units of a stage can be made now and were not taken yet."""
        ...

    def is_complete(self, label: str) -> bool:
        """Whether all units of a stage are made."""
        ...


class Engine(Protocol):
    """Where units and jobs are done. A `RunFault` tells why one could not be."""

    def run_units(self, work: Work, advance: Advance) -> Iterator[UnitDone]:
        """Yield each unit once it is committed, until no unit is left; the caller tells `work` of it."""
        ...

    def run_job(self, task: JobTask, progress: Callable[[Progress], None]) -> Artifact: ...
    def close(self) -> None: ...


def raise_failure(report: Report, label: str, stop: StopSignal) -> None:
    """The fault that a report tells of, if it does."""
    if not isinstance(report, WorkerFailed):
        return
    if report.kind == "stopped":
        stop.raise_if_set()
    if report.kind == "bad_input":
        raise BadPlan((f"{label}: {report.text}",))
    if report.kind == "stalled":
        raise Stalled(f"{label}: {report.text}")
    raise StageFailed(f"{label}:\n{report.text}")
