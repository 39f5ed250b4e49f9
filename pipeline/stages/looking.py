"""Photos that nobody has looked at yet, read in threads: each named while it is in hand, as it may end the process."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.engine.context import InHand
from pipeline.stages.sources import THREADS

AHEAD = 256  # photos in the threads' queue

Item = TypeVar("Item")
Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Poison:
    """In place of what was seen: the photo ends the process that reads it, and was not read."""

    reason: str


@dataclass(frozen=True)
class Looking:
    """`heed` is called after each photo, as a sign of life, and may end the work by an exception."""

    heed: Callable[[], None] = lambda: None
    in_hand: InHand = field(default_factory=InHand)

    def over(
        self, look: Callable[[Item], Seen], items: Sequence[Item], name: Callable[[Item], str]
    ) -> Iterator[tuple[str, Item, Seen | Poison]]:
        """Name, photo and what `look` sees of it, in their order; `name` must tell all photos of a run apart."""

        def one(item: Item) -> Seen | Poison:
            entry = name(item)
            if entry in self.in_hand.poison:
                return Poison(self.in_hand.poison[entry])
            self.in_hand.take([entry])
            seen = look(item)
            self.in_hand.drop([entry])  # not after an error: it is the photo's
            return seen

        # First of all, so that another death comes soon, and alone, so that it is theirs.
        suspects: dict[str, Seen | Poison] = {}
        for item in items if self.in_hand.suspects else ():
            if (entry := name(item)) in self.in_hand.suspects:
                suspects[entry] = one(item)
                self.heed()
        threads = ThreadPoolExecutor(THREADS)
        try:
            for start in range(0, len(items), AHEAD):
                window = [(name(item), item) for item in items[start : start + AHEAD]]
                seen = threads.map(one, [item for entry, item in window if entry not in suspects])
                for entry, item in window:
                    yield entry, item, suspects[entry] if entry in suspects else next(seen)
                    self.heed()
        finally:
            threads.shutdown(cancel_futures=True)
