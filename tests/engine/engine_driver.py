"""A driver in a process of its own, to be killed: engine_driver.py OUT STORE JSON (settings of the fake stages)."""

import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from engine_fakes import FakeIngestConfig, FakeMapConfig, FakeTrainConfig, chain
from team_fakes import Shared, SharedConfig

from pipeline.engine import drive as drive_module
from pipeline.engine import ray
from pipeline.engine.display import Silent
from pipeline.engine.drive import Options, drive
from pipeline.engine.faults import Interrupted, RunFault
from pipeline.engine.stage import MapStage, Resources


def occupy(cpus: float, start_seconds: float) -> None:
    """Have others take CPUs of the cluster, once it is there."""
    ray.START_SECONDS = start_seconds
    connect, held = drive_module.connect, []

    def connect_and_occupy(*given):
        cluster = connect(*given)
        from ray import get, remote  # only now: `connect` sets what it reads

        held.append(remote(Holder).options(num_cpus=cpus).remote())
        get(held[0].there.remote())
        return cluster

    drive_module.connect = connect_and_occupy


class Holder:
    def there(self) -> bool:
        return True


def main() -> int:
    out, store, text = sys.argv[1:]
    settings = json.loads(text)
    plan = chain(
        ingest=FakeIngestConfig(**settings.get("ingest", {})),
        propose=FakeMapConfig(**settings.get("propose", {})),
        label=FakeMapConfig(**settings["label"]) if "label" in settings else None,
        train=FakeTrainConfig(**settings.get("train", {})),
    )
    resources = Resources(**settings.get("resources", {}))
    alone = resources.model_copy(update={"workers": (1, 1)})
    stages = [
        replace(stage, resources=resources if issubclass(stage.stage, MapStage) else alone)
        for stage in plan.stages
    ]
    if "team" in settings:
        stages[1] = replace(
            stages[1], stage=Shared, config=SharedConfig(**settings["team"]), resources=resources
        )
    limits = {name: settings.get(name, 60.0) for name in ("image_timeout", "stall_timeout")}
    plan = replace(plan, stages=tuple(stages), **limits)
    if "occupied" in settings:
        occupy(**settings["occupied"])
    try:
        drive(plan, Options(Path(out), store, engine=settings.get("engine", "local")), Silent())
    except Interrupted as stop:
        return 128 + stop.signum
    except RunFault as fault:
        sys.stderr.write(f"{fault}\n")
        return fault.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
