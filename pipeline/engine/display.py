"""What a run tells while it works; the command line draws it, tests listen to it."""

from typing import Protocol


class Display(Protocol):
    """Receives what happens: a stage begins, advances, ends, and others may between; notes come at any time."""

    def begin(self, label: str, *, units: int, reused: int, images: int) -> None:
        """A stage begins: so many units, of which so many are there already, and the images left to do."""
        ...

    def advance(self, label: str, *, units: int = 0, images: int = 0) -> None:
        """So many more units and images are done."""
        ...

    def job(self, label: str, done: int, total: int, note: str) -> None:
        """A job tells how far it is."""
        ...

    def end(self, label: str, *, seconds: float, images: int) -> None:
        """A stage is complete; `seconds` of wall time in this run."""
        ...

    def note(self, text: str) -> None:
        """Something the user should read."""
        ...


class Silent:
    """A display that shows nothing."""

    def begin(self, label: str, *, units: int, reused: int, images: int) -> None: ...
    def advance(self, label: str, *, units: int = 0, images: int = 0) -> None: ...
    def job(self, label: str, done: int, total: int, note: str) -> None: ...
    def end(self, label: str, *, seconds: float, images: int) -> None: ...
    def note(self, text: str) -> None: ...
