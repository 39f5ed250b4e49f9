"""cases.json: the few images that evaluate picks and the report draws."""

from typing import Self

from pydantic import Field

from pipeline.data.records import RLE, Instance
from pipeline.report.documents import Document


class CaseMask(Document):
    """One mask of a case: class name or phrase, and the RLE.

    Of a machine's mask: `partner`, the index of the case's true object that it was matched with, and their IoU; null
    if it matched none. Of a pseudo-mask also what was asked for it: points (x, y, 1 on the object or 0 off it), box
    xyxy in pixels, and who placed the box.
    """

    label: str
    size: tuple[int, int]
    counts: str
    score: float | None = None
    partner: int | None = None
    iou: float | None = None
    points: list[tuple[float, float, int]] = Field(default_factory=list)
    box: tuple[float, float, float, float] | None = None
    origin: str | None = None

    @property
    def rle(self) -> RLE:
        return RLE(self.size, self.counts)

    @classmethod
    def of(cls, instance: Instance, label: str) -> Self:
        """From an instance with a mask; ValueError without one."""
        if instance.rle is None:
            raise ValueError(f"a case needs a mask, got {instance!r}")
        asked = instance.prompt
        return cls(
            label=label,
            size=instance.rle.size,
            counts=instance.rle.counts,
            score=instance.score,
            points=[(p.x, p.y, p.label) for p in asked.points] if asked else [],
            box=asked.box_xyxy if asked else None,
            origin=asked.origin.value if asked else None,
        )

    def matched(self, partner: int, iou: float) -> Self:
        """The same, matched with that true object of its case."""
        return self.model_copy(update={"partner": partner, "iou": iou})


class Case(Document):
    """One image worth a look: truth, pseudo-masks and what each student finds on it.

    `rank`: its place among the `ranked` images by `miou`, worst first, from 1.
    """

    image_id: int
    uri: str
    sha256: str
    why: str
    miou: float | None
    rank: int
    ranked: int
    truth: list[CaseMask]
    pseudo: list[CaseMask]
    students: dict[str, list[CaseMask]]


class CasesFile(Document):
    """cases.json: the few images that the report draws."""

    cases: list[Case]
