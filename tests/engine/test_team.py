"""A team of two processes: what they tell each other, and a job that they do together."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_fakes import FakeIngest, FakeIngestConfig, FakeTrain, make_record
from ranks import Pair
from team_fakes import STATE, Shared, SharedConfig

from pipeline.data.records import Ontology
from pipeline.engine.context import Stopped, WorkerContext
from pipeline.engine.machine import Heartbeat
from pipeline.engine.plan import PlannedStage, prove
from pipeline.engine.run_job import SPENT, help_with_job, run_job
from pipeline.engine.run_unit import Surroundings
from pipeline.engine.stage import JobStage, Resources
from pipeline.engine.states import last_state
from pipeline.engine.store import Store
from pipeline.engine.tasks import JobTask, StageTask
from pipeline.engine.team import BUCKET, Team, TeamBroken

KEY = "k" * 64


def talk(team: Team) -> dict[str, object]:
    team.wait()
    return {
        "gather": team.gather([team.rank, 7]),
        "any": (team.any(team.rank == 1), team.any(False)),
        "most": team.most(10 * team.rank),
        "first": team.first(5 - team.rank),
        "total": team.total(torch.tensor([1.0, team.rank])).tolist(),
    }


def test_all_hear_the_same(pair: Pair) -> None:
    said = {
        "gather": [0, 7, 1, 7],
        "any": (True, False),
        "most": 10,
        "first": 5,
        "total": [2.0, 1.0],
    }
    assert pair.run(talk) == [said, said]
    alone = Team()
    assert (alone.gather([3]), alone.any(True), alone.most(4), alone.first(2)) == ([3], True, 4, 2)


def disagree(team: Team) -> str:
    try:
        team.agree(team.rank, "step")
    except TeamBroken as broken:
        return str(broken)
    return ""


def test_who_is_elsewhere_is_noticed(pair: Pair) -> None:
    assert pair.run(disagree) == ["step: expected the same in all processes, found [0, 1]"] * 2


def average(team: Team) -> list[list[float]]:
    sizes = (2, BUCKET + 1, 3)  # more than one bucket
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full((sizes[number],), float(number + 2 * team.rank))
    unused = torch.nn.Parameter(torch.zeros(1))
    team.average_gradients([unused, *parameters])
    assert unused.grad is None
    return [p.grad.unique().tolist() for p in parameters if p.grad is not None]


def test_gradients_are_averaged(pair: Pair) -> None:
    assert pair.run(average) == [[[1.0], [2.0], [3.0]]] * 2


@pytest.mark.parametrize(
    ("rank", "world", "count", "part"), [(0, 1, 5, (0, 5)), (1, 2, 6, (3, 6)), (2, 4, 4, (2, 3))]
)
def test_shares(rank: int, world: int, count: int, part: tuple[int, int]) -> None:
    assert Team(rank, world).share(count) == slice(*part)
    with pytest.raises(ValueError, match="equally by 3"):
        Team(0, 3).share(4)


def lose(team: Team) -> None:
    if team.rank == 1:
        raise SystemExit  # its process goes on, the other one waits
    team.wait()


def test_a_lost_process_breaks_the_team(tmp_path: Path) -> None:
    both = Pair(tmp_path)
    try:
        both.begin(lose)
        both.error(1)
        both.processes[1].kill()
        assert "TeamBroken: lost another process" in both.error(0)
    finally:
        both.close()


class Six(tuple[int, ...]):
    """Records in memory."""


def work(team: Team, root: Path, settings: dict[str, object]) -> str:
    stop_at = settings.pop("stop_at", None)
    config = SharedConfig(**settings)  # type: ignore[arg-type]
    seen: list[object] = []
    around = Surroundings(
        Store(root / "store"),
        Heartbeat(root / f"beat-{team.rank}"),
        seen.append,
        # One of them hears of it first.
        lambda: team.rank == 1 and stop_at is not None and len(seen) >= int(str(stop_at)),
    )
    context = WorkerContext("cpu", Ontology(()), root, {})
    stage = StageTask("train", Shared, config.model_dump_json(), context, 1)
    records = Six(make_record(number) for number in range(6))  # type: ignore[arg-type]
    task = JobTask(stage, KEY, records, 0, root, {})  # type: ignore[arg-type]
    try:
        if team.leads:
            return run_job(stage.build_job(), task, around, team).artifact.digest
        help_with_job(stage.build_job(), task, around, team)
    except Stopped as stopped:
        return str(stopped)
    return ""


def test_a_job_of_two_is_committed_once(pair: Pair, tmp_path: Path) -> None:
    first = pair.run(work, tmp_path, {"steps": 3})
    store = Store(tmp_path / "store")
    artifact = store.find_artifact(KEY)
    assert artifact is not None
    assert first == [artifact.digest, ""]
    assert (artifact.folder / "weights.txt").read_text() == "0 [0, 1, 2, 3, 4, 5]"
    assert artifact.metrics == {"steps": 3, "world": 2}
    assert json.loads((artifact.folder / "artifact.json").read_text())["world"] == 2
    assert [*(store.root / "tmp").iterdir(), *(store.root / "work").iterdir()] == []
    assert pair.run(work, tmp_path, {"steps": 3, "refuse": 0}) == first  # it is there


def test_all_stop_at_the_same_step_and_go_on_from_it(pair: Pair, tmp_path: Path) -> None:
    assert pair.run(work, tmp_path, {"steps": 5, "stop_at": 2}) == ["step 2", "step 2"]
    workdir = Store(tmp_path / "store").workdir(KEY)
    state = last_state(workdir, STATE)
    assert state is not None
    assert state.read_text() == "2"
    assert json.loads((workdir / SPENT).read_text())["world"] == 2
    # One process ends what two began, and the artifact says so.
    assert work(Team(), tmp_path, {"steps": 5})
    artifact = Store(tmp_path / "store").find_artifact(KEY)
    assert artifact is not None
    assert artifact.metrics == {"steps": 5, "world": 2}


def test_all_wait_while_another_run_works_on_it_and_stop_when_told(pair: Pair, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.job_lock(KEY, lambda: None):
        pair.begin(work, tmp_path, {"steps": 1})
        assert not any(pipe.poll(1.0) for pipe in pair._pipes)
    answers = [pair._answer(rank) for rank in range(2)]
    assert [kind for kind, _ in answers] == ["value", "value"]
    assert store.find_artifact(KEY) is not None


@pytest.mark.parametrize(
    ("workers", "stage", "problem"),
    [
        ((1, 1), FakeTrain, None),
        ((1, 3), Shared, None),
        ((2, 2), FakeTrain, "finetune_teacher: works in one process, found 2 in resources: workers"),
    ],
)
def test_which_jobs_several_can_do(
    workers: tuple[int, int], stage: type[JobStage], problem: str | None
) -> None:
    first = PlannedStage("ingest", FakeIngest, FakeIngestConfig(), Resources())
    planned = PlannedStage("finetune_teacher", stage, SharedConfig(), Resources(workers=workers))
    assert planned.world == workers[1]
    assert prove([first, planned]) == ([problem] if problem else [])
    assert replace(planned, resources=Resources()).world == 1


@pytest.mark.parametrize("workers", [(0, 1), (2, 1), (0, 0)])
def test_workers_that_make_no_sense(workers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="1 <= fewest <= most"):
        Resources(workers=workers)
