"""Why a run ended early; each kind has its exit code (the table is in docs/architecture.md)."""

from typing import ClassVar

from pipeline.data.urls import without_login


class RunFault(Exception):
    """Base of the endings a user must tell apart; `exit_code` is what the process returns."""

    exit_code: ClassVar[int] = 1


class StageFailed(RunFault):
    """A stage raised an error or broke its contract; the message names stage, unit and the images in hand."""


class BadPlan(RunFault):
    """Config or input that cannot be run; `problems` lists all that was found, before any work; passwords
    in it are blanked out.
    """

    exit_code = 2

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems = tuple(map(without_login, problems))
        super().__init__("\n".join(self.problems))


class TooManyBad(RunFault):
    """More images or annotations were quarantined than `max_bad` allows."""

    exit_code = 3


class FolderBusy(RunFault):
    """Another process works in the run folder; the message names its pid and host."""

    exit_code = 4


class Stalled(RunFault):
    """No image was finished anywhere for `stall_timeout`; the message names the images in hand."""

    exit_code = 5


class Interrupted(RunFault):
    """SIGINT or SIGTERM: the run stopped after the image in hand and can be resumed by the same command."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"stopped by signal {signum}; the same command goes on from here")
