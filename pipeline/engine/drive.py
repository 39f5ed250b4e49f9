"""From a plan to a finished run folder: the lock, the store, the engine, the signals."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine.display import Display
from pipeline.engine.engine import Engine
from pipeline.engine.faults import BadPlan
from pipeline.engine.local import LocalEngine
from pipeline.engine.plan import RunPlan
from pipeline.engine.ray import RayEngine
from pipeline.engine.ray_cluster import connect
from pipeline.engine.ray_train import device_problems
from pipeline.engine.remote_store import RemoteStore, open_store
from pipeline.engine.rundir import RunFolder, config_digest
from pipeline.engine.runner import Runner
from pipeline.engine.signals import StopSignal
from pipeline.engine.store import Store

LOCAL, RAY = "local", "ray"


@dataclass(frozen=True)
class Options:
    """How a run is done; none of it changes a result. `store`: a folder or a URL.

    `workers` 0 works in this process, for debugging. `ray_address`: a cluster to join; None: one is started here.
    """

    out: Path
    store: str | Path
    workers: int = 1
    fresh: bool = False
    engine: str = LOCAL
    ray_address: str | None = None


def drive(plan: RunPlan, options: Options, display: Display) -> bool:
    """Do a run or finish it; whether there was anything to do. A `RunFault` tells why it ended early."""
    if options.engine == LOCAL and options.ray_address is not None:
        raise BadPlan((f"--ray-address={options.ray_address}: goes with --engine=ray only",))
    if options.engine == RAY and options.workers == 0:
        raise BadPlan(("--workers=0: goes with --engine=local only",))
    folder = RunFolder(options.out)
    suggestion = f"{options.out}-{config_digest(plan.resolved)[:8]}"
    folder.check_config(
        plan.resolved, suggestion
    )  # before the lock: in a folder that is not ours not even that
    store = open_store(options.store)
    if not store.shared and options.workers > 0:
        raise BadPlan((f"{store.where}: lives in one process; use --engine=local --workers=0",))
    with StopSignal() as stop, folder.locked():
        folder.check_config(plan.resolved, suggestion)  # another run may have begun here meanwhile
        folder.clean()
        with closing(_engine(plan, options, store, folder, stop, display)) as engine:
            runner = Runner(
                plan, folder, store=store, engine=engine, display=display, stop=stop, fresh=options.fresh
            )
            return runner.run()


def _engine(
    plan: RunPlan, options: Options, store: Store, folder: RunFolder, stop: StopSignal, display: Display
) -> Engine:
    if options.engine == LOCAL:
        for stage in plan.stages:
            if stage.world > 1:
                display.note(
                    f"{stage.label}: resources: workers are for --engine=ray; here one process does it"
                )
        return LocalEngine(
            store,
            folder.heartbeat,
            stop=stop,
            torch_threads=plan.torch_threads,
            in_process=options.workers == 0,
        )
    problems = device_problems(plan)
    if isinstance(
        store, RemoteStore
    ):  # what the processes of a team share while they train lies in its folder
        teams = [stage.label for stage in plan.stages if stage.world > 1]
        problems += [
            f"{label}: resources: workers: several need a store in a shared folder" for label in teams
        ]
    if problems:
        raise BadPlan(tuple(problems))
    cluster = connect(options.ray_address, plan.stages)
    for note in cluster.notes:
        display.note(note)
    return RayEngine(
        cluster,
        store,
        folder.heartbeat,
        stages=plan.stages,
        stop=stop,
        torch_threads=plan.torch_threads,
        stall_timeout=plan.stall_timeout,
    )
