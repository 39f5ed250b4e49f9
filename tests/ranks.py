"""Two processes that torch.distributed connects (gloo), for what a team does without a cluster."""

import multiprocessing
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.data.records import Ontology
from pipeline.engine.stage import TrainContext
from pipeline.engine.team import Team

WORLD = 2
PATIENCE = 120.0  # seconds for a call


def team_context(
    folder: Path,
    ontology: Ontology,
    team: Team,
    *,
    progress: Callable[[int, int, str], None],
    should_stop: Callable[[], bool],
) -> TrainContext:
    """The context of one process of a team that works in `folder/work`; each writes into an `out` of its own."""
    work, out = folder / "work", folder / f"out-{team.rank}"
    for part in (work, out):
        part.mkdir(parents=True, exist_ok=True)
    return TrainContext(
        device="cpu",
        ontology=ontology,
        images_root=folder.parent,
        artifacts={},
        seed=0,
        workdir=work,
        out=out,
        progress=progress,
        should_stop=should_stop,
        team=team,
    )


class Pair:
    """Both do the same call; `run` gives what each made of it, rank by rank."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self.processes = []
        for rank in range(WORLD):
            near, far = context.Pipe()
            arguments = (rank, folder / "meeting", far, list(sys.path))
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            self._pipes.append(near)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: object) -> list[Any]:
        """`function(team, *arguments)` in both; an error in one is raised here."""
        self.begin(function, *arguments)
        found = [self._answer(rank) for rank in range(WORLD)]
        errors = [text for kind, text in found if kind == "error"]
        if errors:
            raise RuntimeError("\n".join(errors))
        return [value for _, value in found]

    def begin(self, function: Callable[..., Any], *arguments: object) -> None:
        """Do not wait for the end."""
        for pipe in self._pipes:
            pipe.send((function, arguments))

    def error(self, rank: int) -> str:
        """What went wrong in one of them."""
        kind, text = self._answer(rank)
        assert kind == "error", text
        return str(text)

    def close(self) -> None:
        """End both."""
        for process in self.processes:
            process.kill()
            process.join()

    def _answer(self, rank: int) -> tuple[str, Any]:
        assert self._pipes[rank].poll(PATIENCE), f"no answer from rank {rank}"
        answer: tuple[str, Any] = self._pipes[rank].recv()
        return answer


def _serve(rank: int, meeting: Path, pipe: Connection, path: list[str]) -> None:
    sys.path[:] = path
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=PATIENCE),
    )
    team = Team(rank, WORLD)
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send(("value", function(team, *arguments)))
        except BaseException:  # noqa: BLE001 (the border of the process)
            pipe.send(("error", traceback.format_exc()))
