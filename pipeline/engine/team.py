"""The processes that do one job together, and what they tell each other.

Each call but `share` is made by all of them, equally often and in the same order: it ends when the last has made it. A
team of one needs no torch and waits for nobody; a larger one speaks through torch.distributed's default group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

BUCKET = 8_000_000  # numbers that are averaged at once


class TeamBroken(Exception):
    """Another process of the team is lost, or did something else; the job goes on from its saved states."""


@dataclass(frozen=True)
class Team:
    """A process's place in its team. `device`: where what is exchanged has to lie, as nccl knows GPUs only."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Our part of `count` things; ValueError unless all parts are equal."""
        if count % self.world:
            raise ValueError(f"{count} cannot be shared equally by {self.world} processes")
        own = count // self.world
        return slice(self.rank * own, (self.rank + 1) * own)

    def gather(self, numbers: Sequence[int]) -> list[int]:
        """The whole numbers of all, rank by rank; as many from each."""
        if self.world == 1:
            return list(numbers)
        import torch
        from torch import distributed

        own = torch.tensor(list(numbers), dtype=torch.int64, device=self.device)
        found = [torch.empty_like(own) for _ in range(self.world)]
        with _unbroken():
            distributed.all_gather(found, own)
            return [int(number) for numbers in found for number in numbers.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether it is so for one of them."""
        return any(self.gather([flag]))

    def most(self, number: int) -> int:
        """The greatest of all."""
        return max(self.gather([number]))

    def first(self, number: int) -> int:
        """What the one that leads says."""
        return self.gather([number])[0]

    def wait(self) -> None:
        """Until all are here."""
        self.gather([0])

    def agree(self, number: int, what: str) -> None:
        """TeamBroken unless all have the same number."""
        found = self.gather([number])
        if len({*found}) > 1:
            raise TeamBroken(f"{what}: expected the same in all processes, found {found}")

    def total(self, values: Tensor) -> Tensor:
        """Sum over all, of the same shape; no gradient passes."""
        if self.world == 1:
            return values
        from torch import distributed

        found = values.detach().clone()
        with _unbroken():
            distributed.all_reduce(found)
        return found

    def average_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Replace each gradient by its mean over all. Parameters without one are those of the others too."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        for gradient, mean in zip(gradients, self.means(gradients), strict=True):
            gradient.copy_(mean)

    def means(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The mean over all of each, of the same shapes; no gradient passes."""
        if self.world == 1:
            return list(values)
        import torch

        found: list[Tensor] = []
        for some in _buckets(values):
            mean = self.total(torch.cat([value.flatten() for value in some])) / self.world
            parts = torch.split(mean, [value.numel() for value in some])
            found += [part.view_as(value) for value, part in zip(some, parts, strict=True)]
        return found


ALONE = Team()


def _buckets(values: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """In their order, so that all processes make the same ones."""
    bucket: list[Tensor] = []
    for value in values:
        bucket.append(value)
        if sum(g.numel() for g in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


@contextmanager
def _unbroken() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch raises when a connection is closed or an answer overdue
        raise TeamBroken(f"lost another process: {error}") from error
