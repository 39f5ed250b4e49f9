"""Who works for which stage on a cluster: hired for what is ready, sent over to another stage, ended to make room.

Nothing is kept free for stages on CPUs alone, as they take over from each other; but the workers that a stage with GPUs
must have find room from the start, so that no GPU waits for the end of the stages before it.
"""

import time
from collections.abc import Callable, Mapping

from pipeline.engine.crew import Crew, Worker
from pipeline.engine.engine import Work
from pipeline.engine.nodes import Need
from pipeline.engine.plan import PlannedStage

SPARE_SECONDS = 5.0  # without work, before a worker goes over to another stage

Ready = Callable[[str], int]  # how many units of a stage can be handed out now


def staff(crew: Crew, work: Work, ready: Ready) -> None:
    """Hire for each stage what its ready units ask for, the fewest workers of every stage before more of any."""
    asking = [stage for stage in reversed(work.stages) if ready(stage.label)]
    stages = {stage.label: stage for stage in work.stages}
    for extra in (False, True):
        for stage in asking:
            fewest, most = stage.resources.workers
            there = crew.of(stage.label)
            busy = sum(not worker.is_idle for worker in there)
            wanted = min(most if extra else max(1, fewest), busy + ready(stage.label))
            for _ in range(wanted - len(there)):
                free = [w for w in crew.workers if _is_free(crew, w, work, stages, ready=ready, extra=extra)]
                if not _hire(crew, stage, free, _reserved(crew, work, stage.label) if extra else []):
                    break


def _hire(crew: Crew, stage: PlannedStage, free: list[Worker], reserved: list[Need]) -> bool:
    """One more worker for a stage: one that has nothing to do elsewhere, or a new one where there is or can be room."""
    need = Need.of(stage.resources)
    for worker in free:
        if worker.need == need:
            worker.label = stage.label
            return True
    return any(
        crew.hire(stage.label, need, instead_of=free[:count], reserved=reserved)
        for count in range(len(free) + 1)
    )


def _reserved(crew: Crew, work: Work, label: str) -> list[Need]:
    """The needs of the workers that other stages with GPUs must have and do not have yet."""
    needs = []
    for stage in work.stages:
        need = Need.of(stage.resources)
        if stage.label != label and need.gpus and not work.is_complete(stage.label):
            needs += [need] * (_fewest(stage) - len(crew.of(stage.label)))
    return needs


def _fewest(stage: PlannedStage) -> int:
    return stage.resources.workers[0]


def _is_free(
    crew: Crew, worker: Worker, work: Work, stages: Mapping[str, PlannedStage], *, ready: Ready, extra: bool
) -> bool:
    """Whether its stage can spare it: for good, or as long as one can see; on GPUs the fewest are not for `extra`."""
    if not worker.is_idle or worker.label not in stages:
        return worker.is_idle
    if ready(worker.label):
        return False
    if work.is_complete(worker.label):
        return True
    # Another stage would drop its model, and it might soon have to load that again.
    long = time.monotonic() - worker.idle_since > SPARE_SECONDS
    kept = extra and worker.need.gpus and len(crew.of(worker.label)) <= _fewest(stages[worker.label])
    return long and not kept
