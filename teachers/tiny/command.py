"""What the training commands of the tiny family share: options, scenes, seeds, files and what they record."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.data.errors import BadInput
from pipeline.toyworld.world import classes
from teachers.identity import file_sha256
from teachers.tiny.listing import FOLDER, path_of
from teachers.tiny.recipe import Json, Trained
from teachers.tiny.scenes import SceneCache
from teachers.tiny.weights import WeightFacts, load_weights, save_weights

WORLD = "demo"
TRAIN_SEED = 1_000_000  # scenes of these seeds are never those of a demo, a study or a report
EVALUATION_SEED = 2_000_000  # of what is reported; the seeds between are for training too
STRANGERS = tuple(
    name for c in classes("pretrain") for name in (c.name, *c.synonyms)
)  # never in a demo scene
ORIGIN = "origin"  # of a weights file's metadata: seed, steps, minutes and command
_ELSEWHERE = {"workdir", "scenes", "threads", "workers", "device"}
_UNRECORDED = {*_ELSEWHERE, "embedded", "evaluate", "evaluation_seed", "export", "start"}


@dataclass(frozen=True)
class Start:
    """What a training begins from: a training's weights, their digest, and what that said of them (`origin`).

    Read when the training begins, so that nothing of it hangs on the file being there when it ends.
    """

    path: Path
    sha256: str
    origin: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Start":
        """BadInput if there are no weights of a training."""
        origin = _origin(path, "--start: expected the weights.safetensors of a training")
        return cls(path, file_sha256(path), origin)


@dataclass(frozen=True)
class Options:
    """The command line: one of train (the default), `evaluate` on so many scenes, or `export` into a folder.

    `embedded`: what is evaluated is the embedded weights, as there is no working folder.
    `evaluation_seed`: the first of those whose scenes `evaluate` scores on, `evaluate` scenes of each; settings are
    chosen on others than are reported.

    A command with options of its own adds them to its parser and, as fields of the same names, to a class below this.
    """

    workdir: Path
    scenes: Path
    count: int
    steps: int
    batch: int
    lr: float
    muon: float
    seed: int
    bf16: bool
    evaluate: int | None
    export: Path | None
    start: Start | None = None
    evaluation_seed: int = EVALUATION_SEED
    embedded: bool = False

    @property
    def scores(self) -> bool:
        """Whether weights that are there are asked for, not a training."""
        return self.evaluate is not None or self.export is not None

    @property
    def data(self) -> dict[str, Json]:
        """What the weights follow from: all but where things lie and who does the work."""
        return {**self._recorded(), "start": None if self.start is None else self.start.sha256}

    def flags(self) -> list[str]:
        """The words of a command line that gives the same."""
        words = []
        for name, value in self._recorded().items():
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, bool):
                words += [flag] if value else []
            elif isinstance(value, list):
                words += [flag, *map(str, value)] if value else []
            elif value is not None:
                words += [flag, str(value)]  # of a float all digits
        return words

    def _recorded(self) -> dict[str, Any]:
        return {
            field.name: getattr(self, field.name) for field in fields(self) if field.name not in _UNRECORDED
        }


Chosen = TypeVar("Chosen", bound=Options)
Number = TypeVar("Number", int, float)


def number(kind: type[Number], expected: str, holds: Callable[[Number], bool]) -> Callable[[str], Number]:
    """An option's type; of anything for which it does not hold, argparse says what was expected."""

    def read(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not holds(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return read


whole = number(int, "a whole number, 0 or more", lambda n: n >= 0)
positive = number(int, "a whole number, 1 or more", lambda n: n >= 1)
share = number(float, "a number from 0 to 1", lambda n: 0 <= n <= 1)
_rate = number(float, "a number above 0", lambda n: 0 < n < math.inf)
_factor = number(float, "a number, 0 or more", lambda n: 0 <= n < math.inf)
_unseen = number(
    int, f"{EVALUATION_SEED} or more, as those below are trainings'", lambda n: n >= EVALUATION_SEED
)


def parser(
    doc: str | None,
    *,
    steps: int,
    batch: int,
    lr: float,
    scenes: int,
    muon: float = 0.0,
    start: str = "",
) -> argparse.ArgumentParser:
    """The options that all have; what the committed weights were made with stands in weights/weights.json.

    `scenes`: how many `--evaluate` means if it is given no number. `start`: what a training may begin from; without
    it there is no such option.
    """
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument(
        "--workdir",
        type=Path,
        help="checkpoints and log; resumed if there. Without it --evaluate is of the embedded weights",
    )
    found.add_argument("--scenes", type=Path, help="rendered scenes (default: WORKDIR/scenes)")
    found.add_argument("--count", type=positive, default=4000, help="scenes of a world to train on")
    found.add_argument("--steps", type=positive, default=steps)
    found.add_argument("--batch", type=positive, default=batch, help="scenes a step")
    found.add_argument("--lr", type=_rate, default=lr)
    found.add_argument("--muon", type=_factor, default=muon, help="see recipe.py")
    found.add_argument("--seed", type=whole, default=0)
    found.add_argument("--threads", type=positive, default=2)
    found.add_argument("--bf16", action="store_true", help="autocast the step to bfloat16")
    found.add_argument("--evaluate", type=positive, nargs="?", const=scenes, metavar="SCENES")
    found.add_argument(
        "--evaluation-seed", type=_unseen, default=EVALUATION_SEED, help="the first of those of --evaluate"
    )
    found.add_argument("--export", type=Path, nargs="?", const=FOLDER, metavar="FOLDER")
    if start:
        found.add_argument("--start", type=Path, help=f"weights.safetensors of {start}, to begin from")
    return found


def parse(given: argparse.ArgumentParser, kind: type[Chosen]) -> Chosen:
    """Read the command line. BadInput if what is to be begun from is no weights of a training."""
    found = vars(given.parse_args())
    torch.set_num_threads(found.pop("threads"))
    if found["evaluation_seed"] != EVALUATION_SEED and (
        found["evaluate"] is None or found["export"] is not None
    ):
        given.error(
            "argument --evaluation-seed: expected with --evaluate and without --export, "
            f"whose score is of seed {EVALUATION_SEED} and those after it"
        )
    embedded, workdir = found["workdir"] is None, found["workdir"] or FOLDER
    if embedded and (found["evaluate"] is None or found["export"] is not None):
        given.error(
            "argument --workdir: expected, as only --evaluate without --export is of the embedded weights"
        )
    if found.get("start") is not None:
        found["start"] = Start.read(found["start"])
    return kind(
        **{**found, "workdir": workdir, "embedded": embedded, "scenes": found["scenes"] or workdir / "scenes"}
    )


def training_scenes(options: Options, world: str = WORLD) -> SceneCache:
    """The scenes to train on; the missing ones are rendered by a process a core."""
    return SceneCache(options.scenes, world=world, seed=TRAIN_SEED, count=options.count)


def training_worlds(options: Options, worlds: Sequence[str]) -> list[SceneCache]:
    """The scenes of each of these worlds; of a world that is there twice they are the same, and held once."""
    caches = {world: training_scenes(options, world) for world in dict.fromkeys(worlds)}
    return [caches[world] for world in worlds]


def go_on(model: nn.Module, start: Start) -> None:
    """Give a model the weights of an earlier stage. BadInput if they are another model's."""
    _give(model, load_file(start.path), f"{start.path}: --start: expected what an earlier stage left")


def _give(model: nn.Module, state: Mapping[str, Tensor], expected: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise BadInput(f"{expected}: {shorten(str(error), 200)}") from error


def keep(options: Options, trained: Trained, needs: Mapping[str, str]) -> None:
    """Write the trained weights into the working folder and say how long they and those before them took."""
    own = {"steps": trained.steps, "minutes": round(trained.seconds / 60, 1)}
    before = None if options.start is None else options.start.origin
    stage = 1 + (before["command"].count("--workdir") if before else 0)
    command = " ".join(["python -m", _module(), f"--workdir W{stage}", *options.flags()])
    if before:
        command = f"{before['command']} && {command} --start W{stage - 1}/weights.safetensors"
        own = {key: round(before[key] + value, 1) for key, value in own.items()}
    origin = {**own, "seed": options.seed, "command": command, "needs": dict(needs)}
    state = {name: value.contiguous() for name, value in trained.state.items()}
    save_file(state, _weights(options), metadata={ORIGIN: json.dumps(origin)})
    say(own)


def restore(model: nn.Module, options: Options, name: str) -> None:
    """Give a model what was trained, as it will be after export, or the embedded weights of that `name`.

    BadInput if there is nothing or another model's.
    """
    path = path_of(name) if options.embedded else _weights(options)
    state = load_weights(name) if options.embedded else _kept(options)
    _give(model, state, f"{path}: expected weights of this command's model")


def _kept(options: Options) -> dict[str, Tensor]:
    """The trained weights, rounded to fp16 and back. BadInput if there are none."""
    _origin(_weights(options), "train first")
    with safe_open(_weights(options), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return {name: t.half().float() if t.is_floating_point() else t for name, t in tensors.items()}


def export(options: Options, name: str, score: Mapping[str, float]) -> None:
    """Write the trained weights and their facts into the export folder."""
    origin = _origin(_weights(options), "train first")
    path = save_weights(name, _kept(options), WeightFacts(score=score, **origin), options.export or FOLDER)
    say({"file": path.name, "bytes": path.stat().st_size})


def run(main: Callable[[], int]) -> None:
    """Run a command as the program; what it refuses is said in a line."""
    try:
        sys.exit(main())
    except BadInput as error:
        sys.exit(str(error))


def say(facts: Mapping[str, float | int | str]) -> None:
    """One JSON line on standard output."""
    sys.stdout.write(json.dumps(facts) + "\n")


def _weights(options: Options) -> Path:
    return options.workdir / "weights.safetensors"


def _origin(path: Path, hint: str) -> dict[str, Any]:
    """What a training says of the weights it left."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file; {hint}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise BadInput(f"{path}: not a safetensors file ({error}); {hint}") from error
    if ORIGIN not in metadata:
        raise BadInput(f"{path}: not a training's; {hint}")
    found: dict[str, Any] = json.loads(metadata[ORIGIN])
    return found


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec is not None else Path(sys.argv[0]).stem
