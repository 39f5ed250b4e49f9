"""The training commands: what they refuse, record, begin from, draw from and score on."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import ConcatDataset

from benchmarks.kinds import SEEDS
from benchmarks.omni_study import __main__ as study
from pipeline.data.errors import BadInput
from pipeline.toyworld.scene import Scene, render
from students import pretrain, pretrain_fcos, pretrain_scenes
from students.architecture import build
from teachers.fcos import build_fcos_tiny
from teachers.tiny import command, evaluate_sam, listing, train_grounder, train_sam, train_text
from teachers.tiny.command import ORIGIN, Options, parse
from teachers.tiny.grounder import TinyGrounder
from teachers.tiny.recipe import Trained
from teachers.tiny.sam import build_tiny_sam
from teachers.tiny.sam_batches import Steps
from teachers.tiny.scenes import CachedScene, cached
from teachers.tiny.text import build_tiny_clip
from teachers.tiny.train_sam import SamOptions
from teachers.tiny.weights import load_weights

FACTS = {"command": "python -m x --workdir W1", "seed": 0, "steps": 1, "minutes": 1.0, "needs": {}}
Argue = Callable[..., None]


@dataclass(frozen=True)
class Command:
    """A training command, and the module that renders what is scored."""

    module: ModuleType
    build: Callable[[], nn.Module]
    renders: ModuleType
    embedded: str


COMMANDS = {
    "sam": Command(train_sam, build_tiny_sam, evaluate_sam, listing.SAM),
    "text": Command(train_text, build_tiny_clip, train_text, listing.TEXT),
    "grounder": Command(train_grounder, TinyGrounder, train_grounder, listing.GROUNDER),
    "student": Command(pretrain, lambda: build("tiny", 1), pretrain, listing.STUDENT),
    "detector": Command(
        pretrain_fcos,
        lambda: build_fcos_tiny(pretrain_scenes.NAMES).model,
        pretrain_fcos,
        listing.DETECTOR,
    ),
}


@pytest.fixture(autouse=True)
def _no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """What should have been refused does not render thousands of scenes."""
    monkeypatch.delattr(command, "SceneCache")


@pytest.fixture
def argue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Argue:
    """`argue(*words)`: these are the command line's, behind those that every command needs."""

    def argue(*words: str) -> None:
        argv = ["train", "--workdir", str(tmp_path / "work"), "--threads", "1", *words]
        monkeypatch.setattr("sys.argv", argv)

    return argue


def left(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Weights as a training leaves them."""
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "weights.safetensors", metadata={ORIGIN: json.dumps(FACTS)})
    return folder / "weights.safetensors"


SHARED = [
    *((option, "0", "1 or more") for option in ("--steps", "--batch", "--count", "--evaluate", "--threads")),
    ("--steps", "few", "1 or more"),
    ("--seed", "-1", "0 or more"),
    *(("--lr", value, "above 0") for value in ("0", "-1", "nan", "inf", "fast")),
    *(("--muon", value, "0 or more") for value in ("-1", "nan", "inf")),
    *(("--evaluation-seed", value, "2000000 or more") for value in ("1000000", "1999999")),
]
SAMS = [
    ("--loss-size", "0", "1 or more"),
    *((option, "-1", "0 or more") for option in ("--workers", "--fine-from", "--restart")),
    *((o, value, "from 0 to 1") for o in ("--points", "--corrected") for value in ("-0.1", "1.1", "nan")),
    *(("--device", value, "torch") for value in ("nowhere", "cpu:x", "meta")),
]


@pytest.mark.parametrize(
    ("name", "option", "value", "expected"),
    [*((name, *row) for name in COMMANDS for row in SHARED), *(("sam", *row) for row in SAMS)],
)
def test_what_an_option_cannot_be_is_refused(
    argue: Argue, capsys: pytest.CaptureFixture[str], name: str, option: str, value: str, expected: str
) -> None:
    argue(option, value)
    with pytest.raises(SystemExit):
        COMMANDS[name].module.main()
    said = capsys.readouterr().err
    assert f"argument {option}: expected " in said
    assert expected in said
    assert f"got '{value}'" in said


def test_the_ends_of_the_ranges_are_allowed(argue: Argue) -> None:
    words = "--points 0 --corrected 1 --workers 0 --fine-from 0 --muon 0 --seed 0 --device cpu --loss-size 1"
    argue(*words.split(), "--steps", "3", "--restart", "0", "2", "--evaluation-seed", "2000000")
    found = parse(train_sam._parser(), SamOptions)
    assert (found.points, found.corrected, found.muon, found.restart) == (0, 1, 0, [0, 2])


def test_a_restart_that_never_comes_is_refused(argue: Argue) -> None:
    argue("--steps", "3", "--restart", "1", "3")
    with pytest.raises(BadInput, match="--restart 3: expected a step below --steps 3"):
        train_sam.main()


def test_the_recorded_words_give_the_same_training(argue: Argue) -> None:
    numbers = ["--lr", "0.000123456789", "--muon", "2.00000001", "--points", "0.123456789"]
    argue(*numbers, "--worlds", "pretrain", "demo", "--restart", "5", "7", "--bf16", "--seed", "3")
    first = parse(train_sam._parser(), SamOptions)
    assert first.lr == 0.000123456789
    argue(*first.flags(), "--evaluation-seed", "2300000", "--evaluate")
    again = parse(train_sam._parser(), SamOptions)
    assert again.data == first.data
    assert not {"evaluation_seed", "evaluate"} & set(first.data)


TRAINING = "expected the weights.safetensors of a training"


@pytest.mark.parametrize("name", ["sam", "student"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), f"no such file; --start: {TRAINING}"),
        (lambda path: path.write_bytes(b""), rf"not a safetensors file \(.*\); --start: {TRAINING}"),
        (lambda path: path.write_bytes(b"x" * 99), rf"not a safetensors file \(.*\); --start: {TRAINING}"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            rf"not a safetensors file \(.*\); --start: {TRAINING}",
        ),
        (lambda path: save_file(load_file(path), path), f"not a training's; --start: {TRAINING}"),
        (lambda _: None, "--start: expected what an earlier stage left: .* Missing key"),
    ],
    ids=["missing", "empty", "garbage", "cut short", "no training's", "another model's"],
)
def test_a_start_that_is_none_is_told_before_the_training(
    argue: Argue, tmp_path: Path, name: str, spoil: Callable[[Path], object], message: str
) -> None:
    start = left(tmp_path, {"some": torch.zeros(1)})
    spoil(start)
    argue("--start", str(start))
    with pytest.raises(BadInput, match=f"{start}: {message}") as told:
        COMMANDS[name].module.main()
    assert len(str(told.value)) < 200 + len(f"{start}: {message}")


@pytest.mark.parametrize("name", COMMANDS)
def test_another_models_weights_are_not_scored(argue: Argue, tmp_path: Path, name: str) -> None:
    weights = left(tmp_path / "work", {"some": torch.zeros(1)})
    argue("--evaluate", "1")
    with pytest.raises(
        BadInput, match=f"{weights}: expected weights of this command's model: .* Missing key"
    ):
        COMMANDS[name].module.main()


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_working_folder_the_embedded_weights_are_scored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    scored: list[dict[str, torch.Tensor]] = []

    def score(model: nn.Module, *_: object, **__: object) -> dict[str, float]:
        scored.append(model.state_dict())
        return {"score": 0.5}

    found = COMMANDS[name]
    monkeypatch.setattr(found.module, "evaluate", score)
    monkeypatch.setattr("sys.argv", ["train", "--evaluate", "1"])
    assert found.module.main() == 0
    embedded = load_weights(found.embedded)
    assert len(scored) == 3
    assert scored[0].keys() == embedded.keys()
    assert all(torch.equal(scored[0][key], value) for key, value in embedded.items())
    assert json.loads(capsys.readouterr().out) == {"score": 0.5, "score_spread": 0.0}


@pytest.mark.parametrize("words", [(), ("--export",), ("--evaluate", "--export")], ids=" ".join)
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_else_goes_without_a_working_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr("sys.argv", ["train", *words])
    with pytest.raises(SystemExit):
        COMMANDS[name].module.main()
    assert "argument --workdir: expected, as only --evaluate without --export" in capsys.readouterr().err


def test_what_is_refused_is_said_in_a_line() -> None:
    def refused() -> int:
        raise BadInput("a.json: expected something else")

    with pytest.raises(SystemExit, match=r"^a\.json: expected something else$"):
        command.run(refused)
    with pytest.raises(SystemExit) as left_with:
        command.run(lambda: 0)
    assert left_with.value.code == 0


def test_a_start_that_is_gone_in_the_end_loses_no_training(
    argue: Argue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = left(tmp_path / "before", build_tiny_sam().state_dict())

    def trained(learner: nn.Module, *, workdir: Path, **_: object) -> Trained:
        workdir.mkdir()
        start.unlink()
        return Trained(learner.state_dict(), 2, 120.0)

    monkeypatch.setattr(command, "SceneCache", Few, raising=False)
    monkeypatch.setattr(train_sam, "train", trained)
    argue("--start", str(start))
    assert train_sam.main() == 0
    facts = command._origin(tmp_path / "work" / "weights.safetensors", "")
    assert (facts["steps"], facts["minutes"]) == (3, 3.0)
    assert str(facts["command"]).startswith(f"{FACTS['command']} && ")


class Few:
    """Two scenes, rendered when they are asked for."""

    def __init__(self, _: Path, *, world: str, seed: int, count: int) -> None:  # noqa: ARG002 (as the real one)
        self._world, self._seed = world, seed

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> CachedScene:
        return cached(render(self._world, self._seed, index))


def apart(*worlds: str) -> list[Few]:
    return [Few(Path(), world=world, seed=command.TRAIN_SEED, count=2) for world in worlds]


def test_a_world_that_is_given_twice_is_held_once_and_drawn_from_as_two(
    argue: Argue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "SceneCache", Few, raising=False)
    argue("--worlds", "demo", "pretrain", "demo")
    scenes = train_sam.scenes_of(parse(train_sam._parser(), SamOptions))
    first, between, last = scenes.datasets
    assert first is last
    assert first is not between
    same = ConcatDataset(apart("demo", "pretrain", "demo"))  # type: ignore[arg-type]
    assert len(scenes) == len(same) == 6
    for step in range(3):
        one, other = (Steps(some, 0, fine_from=2, scenes=3)[step] for some in (scenes, same))
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.masks, other.masks)


def test_the_student_holds_each_world_once_and_draws_as_before(
    argue: Argue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "SceneCache", Few, raising=False)
    argue()
    given = command.parser("", steps=1, batch=1, lr=1.0, scenes=1)
    worlds = pretrain_scenes.worlds_seen(parse(given, Options))
    assert len({id(scenes) for scenes, _ in worlds}) == len(set(pretrain_scenes.SEEN)) < len(worlds)
    same = [
        (s, pretrain_scenes.FIRST[w])
        for s, w in zip(apart(*pretrain_scenes.SEEN), pretrain_scenes.SEEN, strict=True)
    ]
    for step in range(3):
        one, other = (pretrain.Steps(some, seed=1, batch=3)[step] for some in (worlds, same))
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.classes, other.classes)


@pytest.mark.parametrize("option", ["--evaluate", "--export"])
@pytest.mark.parametrize(
    ("name", "scenes"), [("sam", 100), ("text", 200), ("grounder", 200), ("student", 100), ("detector", 200)]
)
def test_the_score_is_by_itself_the_one_that_is_reported(
    argue: Argue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    name: str,
    scenes: int,
) -> None:
    asked: list[dict[str, object]] = []

    def score(*_: object, **given: object) -> dict[str, float]:
        asked.append(given)
        return {"scenes": len(asked), "score": 0.5 + 0.1 * len(asked)}

    found = COMMANDS[name]
    left(tmp_path / "work", found.build().state_dict())
    monkeypatch.setattr(found.module, "evaluate", score)
    argue(option, *([str(tmp_path / "out")] if option == "--export" else []))
    assert found.module.main() == 0
    assert asked == [{"scenes": scenes, "seed": seed} for seed in (2_000_000, 2_100_000, 2_200_000)]
    said = json.loads(capsys.readouterr().out.splitlines()[0])
    assert said == {"scenes": 6, "score": 0.7, "score_spread": 0.1}
    if option == "--export":
        (facts,) = json.loads((tmp_path / "out" / "weights.json").read_text()).values()
        assert facts["score"] == said


@pytest.mark.parametrize("name", COMMANDS)
def test_other_scenes_are_scored_where_they_are_asked_for(
    argue: Argue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    rendered: list[tuple[str, int, int]] = []

    def spied(world: str, seed: int, index: int) -> Scene:
        rendered.append((world, seed, index))
        return render(world, seed, index)

    found = COMMANDS[name]
    torch.manual_seed(0)
    left(tmp_path / "work", found.build().state_dict())
    monkeypatch.setattr(found.renders, "render", spied)
    argue("--evaluate", "1", "--evaluation-seed", "2300000")
    assert found.module.main() == 0
    assert rendered == [("demo", seed, 0) for seed in (2_300_000, 2_400_000, 2_500_000)]
    assert json.loads(capsys.readouterr().out)


def test_no_demo_study_or_report_has_the_scenes_of_a_training() -> None:
    """A scene is made of its world, seed and index: other seeds, other scenes."""
    options = study._options(["--ledger=ledger.jsonl"])
    small = {*SEEDS, *options.seeds, 100}  # 100: settings of students were chosen on it
    assert max(small) < command.TRAIN_SEED < command.EVALUATION_SEED
    assert command.EVALUATION_SEED - command.TRAIN_SEED >= 100_000


@pytest.mark.parametrize("words", [(), ("--export",), ("--evaluate", "1", "--export")], ids=" ".join)
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_but_an_evaluation_is_of_other_scenes(
    argue: Argue, capsys: pytest.CaptureFixture[str], name: str, words: tuple[str, ...]
) -> None:
    argue("--evaluation-seed", "2300000", *words)
    with pytest.raises(SystemExit):
        COMMANDS[name].module.main()
    assert (
        "argument --evaluation-seed: expected with --evaluate and without --export" in capsys.readouterr().err
    )
