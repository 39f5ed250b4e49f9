"""A job for a team, without a model: counts steps in a state, can be killed, and tells who works on it."""

import os
import time

from engine_fakes import FakeTrainConfig

from pipeline.data.errors import BadInput
from pipeline.engine.context import Stopped, TrainContext
from pipeline.engine.stage import JobStage, Metrics, Records, StageConfig
from pipeline.engine.states import last_state, save_state

STATE = "step"


class SharedConfig(FakeTrainConfig):
    refuse: int | None = None  # the process that finds its input bad
    workers: str = ""  # a folder where each process notes rank, process id and the step it begins at


class Shared(JobStage):
    """Every process adds what it has of the ids; the leading one saves."""

    name = "finetune_teacher"
    version = 1
    Config = SharedConfig
    produces = "teacher"

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, SharedConfig)
        self.config = config

    def unshareable(self, world: int) -> str:  # noqa: ARG002
        return ""

    def run(self, data: Records, context: TrainContext) -> Metrics:
        team, state = context.team, last_state(context.workdir, STATE)
        step = int(state.read_text()) if state else 0
        team.agree(step, "step")
        if self.config.workers:
            with open(f"{self.config.workers}/{team.rank}", "a") as file:
                file.write(f"{os.getpid()} {step}\n")
        if self.config.refuse == team.rank:
            raise BadInput("refused")
        while step < self.config.steps:
            step += 1
            time.sleep(self.config.delay)
            if team.leads:
                text = str(step)
                save_state(context.workdir, STATE, step, lambda path: path.write_text(text) and None)  # noqa: B023
            context.progress(step, self.config.steps, "steps")
            if context.should_stop():
                raise Stopped(f"step {step}")
        ids = [record.image_id for record in data]
        numbers = [*ids, *[0] * (len(ids) % team.world)]
        found = team.gather(numbers[team.share(len(numbers))])
        (context.out / "weights.txt").write_text(f"{team.rank} {found}")
        return {"steps": step}
