"""From a plan to a finished run folder: the lock, the store, the engine, the signals."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.engine.display import Display
from pipeline.engine.local import LocalEngine
from pipeline.engine.plan import RunPlan
from pipeline.engine.rundir import RunFolder, config_digest
from pipeline.engine.runner import Runner
from pipeline.engine.signals import StopSignal
from pipeline.engine.store import Store


@dataclass(frozen=True)
class Options:
    """How a run is done; none of it changes a result. `workers` 0 works in this process, for debugging."""

    out: Path
    store: Path
    workers: int = 1
    fresh: bool = False


def drive(plan: RunPlan, options: Options, display: Display) -> bool:
    """Do a run or finish it; whether there was anything to do. A `RunFault` tells why it ended early."""
    folder = RunFolder(options.out)
    suggestion = f"{options.out}-{config_digest(plan.resolved)[:8]}"
    folder.check_config(
        plan.resolved, suggestion
    )  # before the lock: in a folder that is not ours not even that
    with StopSignal() as stop, folder.locked():
        folder.check_config(plan.resolved, suggestion)  # another run may have begun here meanwhile
        folder.clean()
        store = Store(options.store)
        engine = LocalEngine(
            store,
            folder.heartbeat,
            stop=stop,
            torch_threads=plan.torch_threads,
            in_process=options.workers == 0,
        )
        try:
            return Runner(
                plan, folder, store=store, engine=engine, display=display, fresh=options.fresh
            ).run()
        finally:
            engine.close()
