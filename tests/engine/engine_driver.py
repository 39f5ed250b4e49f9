"""A driver in a process of its own, to be killed: engine_driver.py OUT STORE JSON (settings of the fake stages)."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from engine_fakes import FakeIngestConfig, FakeMapConfig, FakeTrainConfig, chain

from pipeline.engine.display import Silent
from pipeline.engine.drive import Options, drive
from pipeline.engine.faults import Interrupted, RunFault


def main() -> int:
    out, store, text = sys.argv[1:]
    settings = json.loads(text)
    plan = chain(
        ingest=FakeIngestConfig(**settings.get("ingest", {})),
        propose=FakeMapConfig(**settings.get("propose", {})),
        train=FakeTrainConfig(**settings.get("train", {})),
    )
    try:
        drive(plan, Options(Path(out), store), Silent())
    except Interrupted as stop:
        return 128 + stop.signum
    except RunFault as fault:
        sys.stderr.write(f"{fault}\n")
        return fault.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
