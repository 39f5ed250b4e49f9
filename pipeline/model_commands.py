"""The commands `pipeline models list`, `fetch` and `check`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.options import exits

Kept = Annotated[Path, typer.Option("--to", help="Where weights are kept.")]
KEPT = Path("weights")
DAMAGED = 2
models = typer.Typer(no_args_is_help=True, help="The models there are, and their weights.")


@models.command("list")
def list_models(folder: Kept = KEPT) -> None:
    """Print the catalog's entries and the weights there are: a line each, the columns two blanks or more apart."""
    with exits():
        from pipeline.weights import WEIGHTS
        from students import catalog as students
        from teachers import catalog as teachers
        from teachers.detectors import DETECTORS

        rows = [("kind", "name", "MB", "state", "licence", "what")]
        rows += [(e.kind, name, "-", "-", e.licence, e.what) for name, e in teachers.ENTRIES.items()]
        rows += [("student", name, "-", "-", e.licence, e.what) for name, e in students.ENTRIES.items()]
        rows += [("detector", name, "-", "-", e.licence, e.what) for name, e in DETECTORS.items()]
        for name, weights in WEIGHTS.items():
            state, size = weights.state(name, folder), weights.size(name)
            rows.append(("weights", name, size, state, weights.licence, weights.what))
        for line in _table(rows):
            typer.echo(line)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


@models.command("fetch")
def fetch_model(
    name: Annotated[str, typer.Argument(help="A line `weights` of `models list`.")],
    folder: Kept = KEPT,
) -> None:
    """Download weights and print the file or folder that a config names; nothing else ever downloads."""
    with exits():
        from pipeline.fetch import fetch

        typer.echo(str(fetch(name, folder)))


@models.command("check")
def check_models(
    names: Annotated[
        list[str] | None, typer.Argument(help="Lines `weights` of `models list`; default: all.")
    ] = None,
    folder: Kept = KEPT,
) -> None:
    """Compare weights with their digests, open them and fit them into their architecture: ok, missing or damaged.

    Exit code 2 if any is damaged, or missing though it was named.
    """
    with exits():
        from pipeline.verify import verify
        from pipeline.weights import WEIGHTS, find_weights

        for name in names or ():
            find_weights(name)
        failed, width = False, max(map(len, names or WEIGHTS))
        for name in names or WEIGHTS:
            verdict = verify(name, folder)
            typer.echo(f"{name:<{width}}  {verdict}")
            failed |= verdict.state == "damaged" or bool(names and verdict.state == "missing")
        if failed:
            raise typer.Exit(DAMAGED)
