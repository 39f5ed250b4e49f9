"""The command line's options that several commands share, and how a command ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer


def in_utf8(path: Path | None) -> Path | None:
    """A path to write to; Parquet files and a strict terminal take no others."""
    try:
        str(path and path.absolute()).encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("expected a path in UTF-8, found other bytes") from None
    return path


def store_in_utf8(store: str) -> str:
    """The same for what is a path or a URL."""
    in_utf8(Path(store))
    return store


File = Annotated[Path, typer.Argument(help="The run's config.")]
Weak = Annotated[str | None, typer.Option("--weak", help="none, class, point+class or box+class.")]
Masks = Annotated[
    str | None,
    typer.Option("--masks", help="Share of train images with human masks, e.g. 10%; all: see README."),
]
Shots = Annotated[int | None, typer.Option("--shots", help="Number of them, instead of --masks.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Set a config key: a.b=value. May be repeated.")]
Out = Annotated[
    Path | None, typer.Option("--out", callback=in_utf8, help="The run folder; default runs/<name>-<weak>.")
]
StoreDir = Annotated[
    str,
    typer.Option("--store", callback=store_in_utf8, help="Results shared by all runs: a folder or s3://..."),
]
Data = Annotated[
    Path,
    typer.Option("--data", envvar="OMNIMASK_DATA", help="Root of relative paths in `data`; default: here."),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="local: one worker here; ray: workers on a cluster."),
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", help="auto or HOST:PORT of a Ray cluster; default: one is started here."),
]
Json = Annotated[Path, typer.Option("--json", help="A COCO file.")]
Images = Annotated[Path, typer.Option("--images", help="The folder of its images.")]
ImagesArgument = Annotated[Path | None, typer.Argument(help="A folder of images, if not given as --images.")]
ImagesOption = Annotated[Path | None, typer.Option("--images", help="The same as the argument.")]
RUNS = Path("runs")
STORE = str(RUNS / ".store")
HERE = Path()
FAILURE = 1
SIGNAL_BASE = 128


@contextmanager
def exits() -> Iterator[None]:
    """Turn what ends a command early into a message and its exit code."""
    from pipeline.data.errors import BadInput
    from pipeline.engine.faults import BadPlan, Interrupted, RunFault

    try:
        yield
    except Interrupted as stop:
        say(str(stop))
        raise typer.Exit(SIGNAL_BASE + stop.signum) from None
    except BadPlan as bad:
        for problem in bad.problems:
            say(f"error: {problem}")
        raise typer.Exit(bad.exit_code) from None
    except RunFault as fault:
        say(f"error: {fault}")
        raise typer.Exit(fault.exit_code) from None
    except BadInput as bad_input:
        say(f"error: {bad_input}")
        raise typer.Exit(BadPlan.exit_code) from None
    except OSError as error:  # disk full, no rights, too many open files: nothing half-written is visible
        say(f"error: {type(error).__name__}: {error}")
        raise typer.Exit(FAILURE) from None


def say(text: str) -> None:
    """A line for the user (or several), apart from the command's output."""
    from pipeline.data.errors import printable

    typer.echo("\n".join(map(printable, text.split("\n"))), err=True)
