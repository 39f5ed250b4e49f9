"""A job done by several processes of a Ray cluster together, through Ray Train. Knows no model.

The scheduler sees one worker, the lead: an actor that takes no room of its own and has Ray Train start the processes
and connect them (gloo on CPUs, nccl on GPUs). Each of them does the same `run_job`, and tells the lead twice a second
how it gets on. If one is lost, all end and begin anew; the job goes on from the last state that it saved itself.
"""

import pickle
import shutil
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from pipeline.engine.machine import THREAD_VARIABLES
from pipeline.engine.nodes import Need
from pipeline.engine.plan import RunPlan
from pipeline.engine.process import Died
from pipeline.engine.ray_rank import Rank, Sign, rank_main
from pipeline.engine.ray_worker import Pulse, settle
from pipeline.engine.supervisor import DEATHS_WITHOUT_IMAGE, STALL_FACTOR
from pipeline.engine.tasks import JobTask, Progress, Report, WorkerFailed

POLL_SECONDS = 0.2
TIMEOUT_SECONDS = 24 * 3600  # of a call between the processes: the lead looks for stalls itself
START_SECONDS = 600.0  # for all processes to find room and to begin
TRAIN_VARIABLES = {  # of the environment: no detours, no noise
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(START_SECONDS),
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",  # after a loss the others never answer
}
LEAD = Need(())  # a lead takes nothing itself


@dataclass(frozen=True)
class Ranks:
    """The processes of a team: how many, and what each takes of a node, by Ray's names."""

    world: int
    amounts: tuple[tuple[str, float], ...]


def device_problems(plan: RunPlan) -> list[str]:
    """Why the teams of a plan could not be connected; empty if they can."""
    if plan.device_type != "cuda":
        return []
    found = [(stage.label, stage.resources.gpus) for stage in plan.stages if stage.world > 1]
    return [
        f"{label}: resources: gpus: expected 1 or more for each of several workers, found {gpus:g}"
        for label, gpus in found
        if gpus < 1
    ]


def give_room_back() -> None:
    """Free what Ray Train took for teams whose lead is gone: Ray keeps that until the end of the run."""
    import ray
    from ray.util import placement_group_table, remove_placement_group
    from ray.util.placement_group import PlacementGroup

    job = ray.get_runtime_context().get_job_id()
    for name, group in placement_group_table().items():
        if name.endswith(job) and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))


class TrainLead:
    """The actor that leads a team; to the scheduler it is a worker like `RayWorker`."""

    def __init__(
        self, store: str, torch_threads: int, sign: str, expected: dict[str, str], ranks: Ranks
    ) -> None:
        self._store, self._torch_threads, self._ranks = store, torch_threads, ranks
        self._sign, self._expected = sign, expected
        self._stop = threading.Event()
        self._folder = settle("omtrain")
        self._key, self._about, self._progress = "", "", Progress(0, 0)
        self._attempt = 0
        self._reports: dict[int, Report] = {}
        self._began = False
        self._lively = self._longest = 0.0

    def do(self, task: JobTask) -> Report:
        """Do a job; when a process is lost all begin anew, from the last saved state."""
        self._key, self._about = task.key, task.stage.label
        for attempt in range(DEATHS_WITHOUT_IMAGE):
            if self._stop.is_set():
                return WorkerFailed("stopped", "stopped before it began")
            outcome = self._once(replace(task, attempt=task.attempt + attempt))
            if not isinstance(outcome, Died):
                return outcome
        return WorkerFailed("error", f"{outcome}, {DEATHS_WITHOUT_IMAGE} times")

    def hear(self, rank: int, attempt: int, sign: Sign) -> bool:
        """What a process tells; whether it is to stop."""
        if attempt == self._attempt:
            now = time.monotonic()
            if sign.is_lively:
                self._longest = max(self._longest, now - self._lively) if self._began else 0.0
                self._lively, self._began = now, True
            if rank == 0 and sign.progress is not None:
                self._progress = sign.progress
            if sign.report is not None:
                self._reports[rank] = sign.report
        return self._stop.is_set()

    def pulse(self) -> Pulse:
        """How far the work is; answered at any time."""
        return Pulse(self._key, self._progress, self._about, ())

    def stop(self) -> None:
        """Stop after the step in hand; the task then ends with `WorkerFailed`."""
        self._stop.set()

    def close(self) -> None:
        """Leave nothing behind; the processes end with this actor, `give_room_back` does the rest."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _once(self, task: JobTask) -> Report | Died:
        self._attempt, self._reports, self._began = task.attempt, {}, False
        self._lively, self._longest = time.monotonic(), 0.0
        errors: list[str] = []
        training = threading.Thread(target=self._train, args=(task, errors), daemon=True)
        training.start()
        while training.is_alive():
            training.join(POLL_SECONDS)
            if (told := self._told()) is not None:
                return told  # Ray Train itself would take half a minute to notice
            if self._stop.is_set() and not self._began:
                return WorkerFailed("stopped", "stopped before it began")
            pause = time.monotonic() - self._lively
            least = STALL_FACTOR * self._longest if self._began else START_SECONDS
            if pause > max(task.stage.limits.stall_seconds, least):
                return WorkerFailed("stalled", f"no sign of life for {pause:.0f} s; no image in hand")
        return self._told() or Died(errors[0] if errors else "a process ended without a word")

    def _told(self) -> Report | None:
        """How the job ended, once it is known: as the leading process says, unless another one failed."""
        reports = [report for _, report in sorted(self._reports.items())]
        failed = [r for r in reports if isinstance(r, WorkerFailed) and r.kind != "stopped"]
        return failed[0] if failed else self._reports.get(0)

    def _train(self, task: JobTask, errors: list[str]) -> None:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        amounts = dict(self._ranks.amounts)
        threads = dict.fromkeys(THREAD_VARIABLES, str(self._torch_threads))
        cuda = task.stage.context.device.startswith("cuda")
        lead = ray.get_runtime_context().current_actor
        rank = Rank(self._store, pickle.dumps(task), lead, self._sign, self._expected)

        class Trainer(TorchTrainer):
            """Without a detached actor that is to give the room back, and outlives a run if there is no dashboard."""

            def _create_default_callbacks(self) -> list[Any]:
                made = super()._create_default_callbacks()  # type: ignore[misc]
                return [one for one in made if type(one).__name__ != "PlacementGroupCleanerCallback"]

        try:
            Trainer(
                rank_main,
                train_loop_config={"rank": rank},
                torch_config=TorchConfig(backend="nccl" if cuda else "gloo", timeout_s=TIMEOUT_SECONDS),
                scaling_config=ScalingConfig(
                    num_workers=self._ranks.world,
                    use_gpu=amounts.get("GPU", 0) > 0,
                    resources_per_worker=amounts,
                ),
                run_config=RunConfig(  # type: ignore[call-arg]
                    name="job",
                    storage_path=str(self._folder),  # Ray Train keeps nothing of ours
                    failure_config=FailureConfig(  # type: ignore[call-arg]
                        max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                    ),
                    worker_runtime_env={"env_vars": threads},
                ),
            ).fit()
        except Exception as error:  # noqa: BLE001 (what the processes did not tell themselves)
            errors.append(_brief(error))


def _brief(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"a process of the team was lost ({type(error).__name__}: {' '.join(lines[-1:])[:300]})"
