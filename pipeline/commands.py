"""The commands for single steps: train, label, predict, evaluate, export, models."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.options import RUNS, STORE, Device, Images, Json, Out, Set, StoreDir, Weak, exits, say

if TYPE_CHECKING:
    from pipeline.engine.plan import RunPlan
    from pipeline.predict import Prediction

ValJson = Annotated[Path | None, typer.Option("--val-json", help="A COCO file to score on.")]
ValImages = Annotated[
    Path | None, typer.Option("--val-images", help="Its images; default: those of --images.")
]
Teacher = Annotated[
    str, typer.Option("--teacher", help="A catalog entry, a tuned teacher's folder or a run folder.")
]
Student = Annotated[str, typer.Option("--student", help="A trained student's folder or a run folder.")]
MAX_BAD = 0.05
steps = typer.Typer()
models = typer.Typer(no_args_is_help=True, help="The models there are, and their weights.")


@steps.command()
def train(
    student: Annotated[str, typer.Argument(help="A student of the catalog, e.g. mask2former.")],
    coco: Json,
    images: Images,
    val_json: ValJson = None,
    val_images: ValImages = None,
    settings: Set = None,
    out: Out = None,
    store: StoreDir = STORE,
    device: Device = None,
) -> None:
    """Train a student on any COCO file with masks; set its numbers with --set models.student.steps=1000."""
    with exits():
        from pipeline.config import Request
        from pipeline.engine.status import find_results
        from pipeline.standalone import Photos, plan_training

        request = Request(Path(), settings=tuple(settings or ()), device=device)
        plan = plan_training(student, Photos(coco, images, val_json, val_images), request)
        folder = out or RUNS / plan.name
        _drive(plan, folder, store)
        (artifact,) = find_results(folder, "train_student").values()
        typer.echo(f"student: {artifact}")


@steps.command()
def label(
    images: Annotated[Path, typer.Argument(help="A folder of images.")],
    coco: Json,
    teacher: Teacher = "class_aware_sam",
    proposer: Annotated[
        str, typer.Option("--proposer", help="Finds boxes; not used with box+class.")
    ] = "tiny_grounder",
    weak: Weak = None,
    settings: Set = None,
    out: Out = None,
    store: StoreDir = STORE,
    device: Device = None,
) -> None:
    """Give every image that a COCO file lists pseudo-masks, from the weak labels in it (default: point+class)."""
    with exits():
        from pipeline.config import Request
        from pipeline.standalone import Photos, plan_labelling

        request = Request(Path(), weak=weak, settings=tuple(settings or ()), device=device)
        plan = plan_labelling(teacher, proposer, Photos(coco, images), request)
        folder = out or RUNS / f"{plan.name}-{plan.resolved['weak']}"
        _drive(plan, folder, store)
        typer.echo(f"pseudo-masks: {folder / 'export' / 'coco' / 'train.json'}")


def _drive(plan: "RunPlan", folder: Path, store: Path) -> None:
    from pipeline.engine.drive import Options, drive
    from pipeline.progress import make_display

    display = make_display()
    try:
        drive(plan, Options(folder, store), display)
    finally:
        display.close()


@steps.command()
def predict(
    images: Annotated[Path, typer.Argument(help="A folder of images.")],
    student: Student,
    out: Annotated[Path, typer.Option("--out", help="The COCO results file to write.")],
    coco: Annotated[
        Path | None, typer.Option("--json", help="A COCO file: its images, with their ids.")
    ] = None,
    device: Device = None,
) -> None:
    """Find instances with a trained student; COCO results, images numbered by name unless --json gives ids."""
    with exits():
        from pipeline.data.errors import BadInput
        from pipeline.predict import write_results

        if out.exists():
            raise BadInput(f"--out {out}: is there already and is not overwritten")
        prediction = _prediction(student, images, coco, device)
        count = write_results(prediction, out)
        typer.echo(f"{out}: {count} instances in {prediction.images} images")
        _tell_bad(prediction)


@steps.command()
def evaluate(
    coco: Json,
    images: Annotated[
        Path | None, typer.Option("--images", help="The folder of its images, for --student.")
    ] = None,
    student: Annotated[str | None, typer.Option("--student", help="A student's or a run's folder.")] = None,
    results: Annotated[
        Path | None, typer.Option("--results", help="COCO results, or a COCO file of pseudo-masks.")
    ] = None,
    device: Device = None,
) -> None:
    """Score a student, a COCO results file or a COCO file of pseudo-masks against a COCO file's masks; prints JSON."""
    with exits():
        from pipeline.data.errors import BadInput
        from pipeline.predict import score_file, score_results

        if (student is None) == (results is None) or (student is not None and images is None):
            raise BadInput("expected --results FILE, or --student with --images DIR")
        if results is not None:
            typer.echo(json.dumps(score_file(coco, results), indent=1))
            return
        assert student is not None
        assert images is not None
        prediction = _prediction(student, images, coco, device)
        typer.echo(json.dumps(score_results(coco, prediction), indent=1))
        _tell_bad(prediction)


def _prediction(student: str, images: Path, coco: Path | None, device: str | None) -> "Prediction":
    from pipeline.config import resolve_device
    from pipeline.predict import Prediction, list_photos
    from pipeline.standalone import find_student
    from students import catalog

    photos = list_photos(images, coco)
    model = catalog.load_artifact(find_student(student), device=resolve_device(device or "auto"))
    return Prediction(model, photos)


def _tell_bad(prediction: "Prediction") -> None:
    from pipeline.engine.faults import TooManyBad

    for reason in prediction.bad:
        say(f"left out: {reason}")
    if len(prediction.bad) > MAX_BAD * len(prediction.photos):
        raise TooManyBad(
            f"{len(prediction.bad)} of {len(prediction.photos)} images are bad; {MAX_BAD:.0%} are allowed"
        )


@steps.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder.")],
) -> None:
    """Copy a run's COCO files and the images they list into a folder of their own, ready for another trainer."""
    with exits():
        from pipeline.standalone import copy_export

        count = copy_export(run, out)
        typer.echo(f"{out}: {count} images")


@models.command("list")
def list_models() -> None:
    """Print the catalog's entries and what can be fetched."""
    with exits():
        from pipeline.fetch import SOURCES
        from students import catalog as students
        from teachers import catalog as teachers

        for name, entry in teachers.ENTRIES.items():
            typer.echo(f"{entry.kind:<10} {name}")
        for name in students.names():
            typer.echo(f"{'student':<10} {name}")
        for name in SOURCES:
            typer.echo(f"{'weights':<10} {name}")


@models.command("fetch")
def fetch_model(
    name: Annotated[str, typer.Argument(help="A line `weights` of `models list`.")],
    folder: Annotated[Path, typer.Option("--to", help="Where weights are kept.")] = Path("weights"),
) -> None:
    """Download the weights of a model; nothing else ever downloads."""
    with exits():
        from pipeline.fetch import fetch

        typer.echo(str(fetch(name, folder)))
