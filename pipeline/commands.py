"""The commands for single steps: train, label, predict, evaluate, validate, export."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.options import (
    RUNS,
    STORE,
    Device,
    Images,
    ImagesArgument,
    ImagesOption,
    Json,
    Out,
    Set,
    StoreDir,
    Weak,
    exits,
    in_utf8,
    say,
)

if TYPE_CHECKING:
    from pipeline.engine.plan import RunPlan
    from students.protocols import Student as TrainedStudent

ValJson = Annotated[Path | None, typer.Option("--val-json", help="A COCO file to score on.")]
ValImages = Annotated[
    Path | None, typer.Option("--val-images", help="Its images; default: those of --images.")
]
Teacher = Annotated[
    str, typer.Option("--teacher", help="A catalog entry, a tuned teacher's folder or a run folder.")
]
Student = Annotated[
    str, typer.Option("--student", help="A trained student's folder, a run folder, or RUN/NAME of several.")
]
MAX_BAD = 0.05
steps = typer.Typer()


@steps.command()
def train(
    model: Annotated[
        str, typer.Argument(help="A student of the catalog, e.g. mask2former, or a teacher that is tuned.")
    ],
    coco: Json,
    images: Images,
    shots: Annotated[
        int | None, typer.Option("--shots", help="Of a teacher: how many images' masks; default: all.")
    ] = None,
    proposer: Annotated[
        str | None,
        typer.Option("--proposer", help="Of am_sam: finds its boxes; default: as its settings say."),
    ] = None,
    val_json: ValJson = None,
    val_images: ValImages = None,
    settings: Set = None,
    out: Out = None,
    store: StoreDir = STORE,
    device: Device = None,
) -> None:
    """Train a student on any COCO file, or tune a teacher on few of its masks.

    Set its numbers with --set models.student.steps=1000 (or models.teacher). Images of which not every object has a
    mask are left out; with --shots that many are drawn by the seed.
    """
    with exits():
        from pipeline.config import Request
        from pipeline.engine.status import find_results
        from pipeline.standalone import Photos, plan_training

        request = Request(Path(), shots=shots, settings=tuple(settings or ()), device=device)
        photos = Photos(coco, images, val_json, val_images)
        plan = plan_training(model, photos, request, proposer=proposer)
        folder = out or RUNS / plan.name
        _drive(plan, folder, store)
        for what, stage in (("student", "train_student"), ("teacher", "finetune_teacher")):
            for artifact in find_results(folder, stage).values():
                typer.echo(f"{what}: {artifact}")


@steps.command()
def label(
    images: ImagesArgument = None,
    images_option: ImagesOption = None,
    coco: Annotated[
        Path | None, typer.Option("--json", help="A COCO file with weak labels; default: nothing is known.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Without --json, what to look for: a,b,c; default: those of a run."),
    ] = None,
    teacher: Teacher = "class_aware_sam",
    proposer: Annotated[
        str | None,
        typer.Option(
            "--proposer", help="Finds boxes, not with box+class; default: a run's, or tiny_grounder."
        ),
    ] = None,
    weak: Weak = None,
    settings: Set = None,
    out: Out = None,
    store: StoreDir = STORE,
    device: Device = None,
) -> None:
    """Give images pseudo-masks: those --json lists, from its weak labels (default: point+class), or all of a folder.

    Without --json nothing is known of the images (--weak=none): the classes to look for come from --classes or from the
    run whose folder --teacher names.
    """
    with exits():
        from pipeline.config import Request
        from pipeline.found import find_teacher
        from pipeline.standalone import photos_to_label, plan_labelling

        found = find_teacher(teacher)
        photos = photos_to_label(_folder(images, images_option), coco, classes, found)
        request = Request(Path(), weak=weak, settings=tuple(settings or ()), device=device)
        plan = plan_labelling(found, proposer, photos, request)
        folder = out or RUNS / f"{plan.name}-{plan.resolved['weak']}"
        _drive(plan, folder, store)
        typer.echo(f"pseudo-masks: {folder / 'export' / 'coco' / 'train.json'}")


def _folder(argument: Path | None, option: Path | None) -> Path:
    from pipeline.data.errors import BadInput

    given = [path for path in (argument, option) if path is not None]
    if len(given) != 1:
        raise BadInput(
            f"expected a folder of images, as argument or as --images, found {'both' if given else 'none'}"
        )
    return given[0]


def _drive(plan: "RunPlan", folder: Path, store: str) -> None:
    """Do a run and tell what ingest noted on its images."""
    from pipeline.engine.drive import Options, drive
    from pipeline.progress import make_display
    from pipeline.standalone import notes_of

    display = make_display()
    try:
        drive(plan, Options(folder, store), display)
    finally:
        display.close()
    for note in notes_of(folder):
        say(note)


@steps.command()
def predict(
    student: Student,
    out: Annotated[Path, typer.Option("--out", callback=in_utf8, help="The COCO results file to write.")],
    images: ImagesArgument = None,
    images_option: ImagesOption = None,
    coco: Annotated[
        Path | None, typer.Option("--json", help="A COCO file: its images, with their ids.")
    ] = None,
    device: Device = None,
) -> None:
    """Find instances with a trained student; COCO results, images numbered by name unless --json gives ids."""
    with exits():
        from pipeline.data.errors import BadInput
        from pipeline.predict import Prediction, list_photos, write_results

        if out.exists():
            raise BadInput(f"--out {out}: is there already and is not overwritten")
        folder = _folder(images, images_option)
        photos, bad = list_photos(folder, coco)
        prediction = Prediction(_trained(student, device), folder, photos, bad=bad)
        count = write_results(prediction, out)
        typer.echo(f"{out}: {count} instances in {prediction.images} images")
        for note in prediction.notes:
            say(note)
        _tell_bad(prediction.bad)
        _refuse_bad(prediction.bad_share)


@steps.command()
def evaluate(
    coco: Json,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", help="The folder of its images: for --student, and where EXIF turns photos."
        ),
    ] = None,
    student: Annotated[str | None, typer.Option("--student", help="As of `predict`.")] = None,
    results: Annotated[
        Path | None, typer.Option("--results", help="COCO results, or a COCO file of pseudo-masks.")
    ] = None,
    device: Device = None,
) -> None:
    """Score a student, a COCO results file or a COCO file of pseudo-masks against a COCO file's masks; prints JSON."""
    with exits():
        from pipeline.data.errors import BadInput
        from pipeline.score import Truth, score_file, score_student

        if (student is None) == (results is None) or (student is not None and images is None):
            raise BadInput("expected --results FILE, or --student with --images DIR")
        with Truth(coco, images) as truth:
            try:
                if results is not None:
                    scores = score_file(truth, results)
                else:
                    assert student is not None
                    assert images is not None
                    scores = score_student(_trained(student, device), truth, images)
            finally:
                _tell_bad([*truth.bad_images, *truth.bad_annotations])
                for note in truth.notes:
                    say(note)
        _refuse_bad(truth.bad_share)
        typer.echo(json.dumps(scores, indent=1))


def _trained(student: str, device: str | None) -> "TrainedStudent":
    from pipeline.config import resolve_device
    from pipeline.found import find_student
    from students import catalog

    return catalog.load_artifact(find_student(student), device=resolve_device(device or "auto"))


def _tell_bad(bad: Sequence[str]) -> None:
    for reason in bad:
        say(f"left out: {reason}")


def _refuse_bad(share: float) -> None:
    from pipeline.engine.faults import TooManyBad

    if share > MAX_BAD:
        raise TooManyBad(f"{share:.1%} of the images or annotations are bad; {MAX_BAD:.0%} are allowed")


@steps.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A COCO file.")],
    images: Annotated[
        Path | None,
        typer.Option("--images", help="The folder of its images; default: no photo is looked at."),
    ] = None,
) -> None:
    """Check a COCO file and its photos as a run would take them in; exit code 0: valid, 1: warnings, 2: errors.

    Each finding is a line that names the entry and its field; 70 is a fault of this program.
    """
    with exits():
        from pipeline.progress import Lines
        from pipeline.validate import validate as check

        raise typer.Exit(check(file, images, Lines()))


@steps.command()
def export(
    source: Annotated[Path, typer.Argument(help="A run folder, or a COCO file with --images.")],
    out: Annotated[Path, typer.Option("--out", callback=in_utf8, help="A new folder.")],
    images: Annotated[
        Path | None, typer.Option("--images", help="The folder of a COCO file's images.")
    ] = None,
) -> None:
    """Make a folder for another trainer: `coco/` and `images/`.

    A run's COCO files are copied as they are. Any other COCO file is checked and written anew, masks as RLE; images of
    which not every object has a usable mask, or whose photo cannot be read, are left out.
    """
    with exits():
        from pipeline.data.errors import BadInput
        from pipeline.export import export_file, export_run
        from pipeline.stages.photos import notes_on

        if source.is_file() != (images is not None):
            raise BadInput("expected a run folder, or a COCO file with --images, the folder of its images")
        if images is None:
            typer.echo(f"{out}: {export_run(source, out)} images")
            return
        exported = export_file(source, images, out)
        typer.echo(f"{out}: {exported.images} images")
        for note in notes_on(exported.remarks):
            say(note)
        _tell_bad([*exported.bad_images, *exported.bad_annotations])
        if exported.maskless:
            say(f"left out: {exported.maskless} images of which not every object has a mask")
        if exported.nameless:
            say(f"left out: {exported.nameless} masks whose phrase is no category")
        _refuse_bad(exported.bad_share)
