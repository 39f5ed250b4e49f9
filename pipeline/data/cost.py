"""What annotation costs: seconds per image for each weak kind, and for a data set with some masks (methods 3.7).

K = classes of the data set, c = classes present in an image, n = instances in it (both means). A present class costs
no tag check of its own once it is localised. Unit times: Bearman et al. 2016 (tag, points, mask), Papadopoulos et al.
2017 (box by extreme clicking); the accounting reproduces Table 1 of Das et al. 2024.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.data.errors import BadInput
from pipeline.data.records import Instance, Record, Role, Source, WeakKind

MASK = "mask+class"  # full masks: what every weak kind is compared with


@dataclass(frozen=True, slots=True)
class Units:
    """Seconds for one act of annotation; an instruction's time has no published value and must be given."""

    tag: float = 1.0  # one class checked in one image
    first_point: float = 2.4  # the first point of a present class
    next_point: float = 0.9  # each further point of it
    box: float = 7.0
    mask: float = 79.0  # 79.2, as sometimes cited, does not fit Table 1
    instruction: float | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise BadInput(f"cost.units.{name}: expected seconds of at least 0, found {value}")


@dataclass(frozen=True, slots=True)
class CostModel:
    """The bill of a data set with K classes, n instances and c present classes per image.

    `basis` says where n and c come from: published, measured (on human labels) or estimated (on pseudo-masks).
    """

    K: int
    n: float
    c: float
    units: Units = field(default_factory=Units)
    basis: str = "given"

    def __post_init__(self) -> None:
        if self.K < 1 or not 0 <= self.c <= self.K:
            raise BadInput(f"cost: expected 0 <= c <= K and K >= 1, found c={self.c}, K={self.K}")
        if not self.c <= self.n < float("inf"):
            raise BadInput(
                f"cost: expected at least one instance per present class, found n={self.n}, c={self.c}"
            )

    def per_image(self, kind: WeakKind | str) -> float:
        """Seconds for one image at a weak kind or at `mask+class`; BadInput for an instruction without unit time."""
        u, absent = self.units, self.units.tag * (self.K - self.c)
        if kind == WeakKind.NONE:
            return 0.0
        if kind == WeakKind.CLASS:
            return u.tag * self.K
        if kind == WeakKind.POINT:
            return absent + u.first_point * self.c + u.next_point * (self.n - self.c)
        if kind == WeakKind.BOX:
            return absent + u.box * self.n
        if kind == MASK:
            return absent + u.mask * self.n
        if kind != WeakKind.INSTRUCTION:
            raise BadInput(f"cost: expected a kind of {', '.join((*WeakKind, MASK))}, found {kind!r}")
        if u.instruction is None:
            raise BadInput(
                "cost.units.instruction: expected the seconds one instruction takes, found nothing"
            )
        return u.instruction

    def total(self, images: int, masked_fraction: float, kind: WeakKind | str) -> float:
        """Seconds for `images` images of which a fraction 0..1 gets full masks and the rest weak labels of `kind`."""
        if images < 0 or not 0 <= masked_fraction <= 1:
            raise BadInput(
                f"cost: expected images >= 0 and a fraction 0..1, found {images}, {masked_fraction}"
            )
        weak = self.per_image(kind) if masked_fraction < 1 else 0.0
        return images * (masked_fraction * self.per_image(MASK) + (1 - masked_fraction) * weak)

    def saving_factor(self, masked_fraction: float, kind: WeakKind | str) -> float:
        """How many times full masks cost more than this; infinite when this costs nothing."""
        return self.saving(1, self.total(1, masked_fraction, kind))

    def saving(self, images: int, seconds: float) -> float:
        """How many times full masks for `images` images cost more than `seconds`; infinite when that is nothing."""
        return self.total(images, 1.0, MASK) / seconds if seconds else float("inf")


# COCO's n, c are its published means; those of ADE20K and Cityscapes are solved from Table 1.
PRESETS = {
    "coco": CostModel(80, 7.7, 3.5, basis="published"),
    "ade20k": CostModel(100, 9.67, 4.39, basis="published"),
    "cityscapes": CostModel(8, 16.92, 2.94, basis="published"),
}


def measure(records: Iterable[Record], *, classes: int, units: Units | None = None) -> CostModel | None:
    """The cost model with n and c measured on train records; None when there is nothing to count or no class.

    Counted are the human labels of human-masked and reserved images. When these hold none, the pseudo-masks of weak
    images that were not dropped are, and `basis` says "estimated". Val images never count: they serve scoring.
    """
    human, machine = _Tally(), _Tally()
    for record in records:
        kept = [i for i in record.instances if i.dropped is None]
        if record.role in (Role.HUMAN_MASKED, Role.RESERVED):
            human.add([i for i in kept if i.source is Source.HUMAN])
        elif record.role is Role.WEAK:
            machine.add([i for i in kept if i.rle is not None])
    tally, basis = (human, "measured") if human.instances else (machine, "estimated")
    if not tally.instances or not classes:
        return None
    n, c = tally.instances / tally.images, tally.classes / tally.images
    return CostModel(classes, n, min(c, classes), units or Units(), basis)


@dataclass
class _Tally:
    images: int = 0
    instances: int = 0
    classes: int = 0

    def add(self, instances: list[Instance]) -> None:
        self.images += 1
        self.instances += len(instances)
        self.classes += len({(i.class_id, i.phrase) for i in instances})
