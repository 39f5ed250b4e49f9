"""The command line. Each command is a thin body; what is heavy to import is imported in it, so that --help is quick."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline import commands, model_commands
from pipeline.options import (
    HERE,
    RUNS,
    STORE,
    Data,
    Device,
    Engine,
    File,
    Masks,
    Out,
    RayAddress,
    Set,
    Shots,
    StoreDir,
    Weak,
    exits,
    say,
)

app = typer.Typer(
    name="pipeline",
    help="Cheap labels in; COCO pseudo-masks, trained students and the annotation bill out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(commands.steps)
app.add_typer(model_commands.models, name="models")


@app.command()
def run(
    file: File = Path("stages.yaml"),
    weak: Weak = None,
    masks: Masks = None,
    shots: Shots = None,
    settings: Set = None,
    out: Out = None,
    store: StoreDir = STORE,
    data: Data = HERE,
    device: Device = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    workers: Annotated[int, typer.Option(min=0, max=1, help="0: in this process, for debugging.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Redo all, whatever the store has.")] = False,
) -> None:
    """Do a run, or finish the one that is in the folder."""
    with exits():
        from pipeline.config import Request, load_plan
        from pipeline.engine.drive import Options, drive
        from pipeline.progress import make_display
        from pipeline.standalone import notes_of
        from pipeline.summary import summary

        request = Request(
            file, weak, masks, shots, settings=tuple(settings or ()), data_root=data, device=device
        )
        plan = load_plan(request)
        folder = out or RUNS / f"{plan.name}-{plan.resolved['weak']}"
        options = Options(folder, store, workers, fresh, engine, ray_address)
        display = make_display()
        try:
            worked = drive(plan, options, display)
        finally:
            display.close()
        typer.echo(f"{folder}: complete" if worked else f"{folder}: complete already, nothing to do")
        for note in notes_of(folder):
            say(note)
        if text := summary(folder):
            typer.echo(text)


@app.command()
def check(
    file: File = Path("stages.yaml"),
    weak: Weak = None,
    masks: Masks = None,
    shots: Shots = None,
    settings: Set = None,
    data: Data = HERE,
    device: Device = None,
) -> None:
    """Check a config as a whole and show it with every default filled in; nothing is done."""
    with exits():
        import yaml

        from pipeline.config import Request, load_plan

        request = Request(
            file, weak, masks, shots, settings=tuple(settings or ()), data_root=data, device=device
        )
        typer.echo(yaml.safe_dump(load_plan(request).resolved, sort_keys=False, allow_unicode=True), nl=False)


@app.command()
def status(folder: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Tell from disk what is done, running, left and damaged, also while the run goes on."""
    with exits():
        from pipeline.engine.status import read_status

        found = read_status(folder)
        typer.echo(f"{found.name}: {found.state}" + (f", {found.holder}" if found.holder else ""))
        for stage in found.stages:
            done = f"{stage.done}/{stage.total}" if stage.total else "-"
            notes = [f"{stage.redo} to do"] if stage.redo else []
            notes += [f"{stage.damaged} of these damaged"] if stage.damaged else []
            notes += [f"{stage.quarantined} images quarantined"] if stage.quarantined else []
            line = (
                f"  {stage.label:24} {stage.state:11} {done:>12} {stage.seconds:>9.1f} s  {', '.join(notes)}"
            )
            typer.echo(line.rstrip())
        if found.in_hand:
            typer.echo(f"in hand: {found.in_hand}")


@app.command()
def cost(
    preset: Annotated[str, typer.Option("--preset", help="coco, ade20k or cityscapes.")] = "coco",
) -> None:
    """Print what one image costs to annotate with each kind of label, in seconds, and the saving over full masks."""
    with exits():
        from pipeline.data.cost import MASK, PRESETS
        from pipeline.data.errors import BadInput
        from pipeline.data.records import WeakKind

        if preset not in PRESETS:
            raise BadInput(f"--preset: expected one of {', '.join(PRESETS)}, found {preset!r}")
        model = PRESETS[preset]
        typer.echo(f"{preset}: {model.K} classes, {model.n:g} instances of {model.c:g} classes per image")
        typer.echo(f"{'label':<12} {'s/image':>9} {'saving':>7}")
        for kind in (WeakKind.NONE, WeakKind.CLASS, WeakKind.POINT, WeakKind.BOX, MASK):
            seconds = model.per_image(kind)
            saving = f"{model.saving_factor(0, kind):.2f}" if seconds else "-"
            typer.echo(f"{kind:<12} {seconds:>9.1f} {saving:>7}")


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="pipeline", args=sys.argv[1:])


if __name__ == "__main__":
    main()
