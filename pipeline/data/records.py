"""The nouns of the system: what is known of one image and of each thing in it.

A run is a stream of `Record`s; a stage takes a record and returns one that knows more. Everything is frozen and checked
on construction. Coordinates are absolute pixels of the upright image, pixel i covers [i, i+1); boxes are xyxy.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

Box = tuple[float, float, float, float]


class Role(StrEnum):
    """What a run may do with an image (the design's section 2)."""

    HUMAN_MASKED = "human_masked"  # human masks, may train the teacher
    RESERVED = "reserved"  # human masks kept out of teacher fitting: for gate and calibrate
    WEAK = "weak"  # weak labels only: gets pseudo-masks
    VAL = "val"  # human masks for scoring only


class WeakKind(StrEnum):
    """The most a run may see of a weak image, from cheapest to dearest; `instruction` is apart."""

    NONE = "none"
    CLASS = "class"
    POINT = "point+class"
    BOX = "box+class"
    INSTRUCTION = "instruction"


class Source(StrEnum):
    """Who made an instance's label."""

    HUMAN = "human"
    TEACHER = "teacher"
    STUDENT = "student"


class Origin(StrEnum):
    """Where a prompt came from: a human, the SAM mask of a human's point, or a detector; `image` is all of the image,
    for a teacher that wants a box where none was found.
    """

    HUMAN = "human"
    SAM = "sam"
    DINO = "dino"
    IMAGE = "image"


def _require(condition: bool, what: str, got: object) -> None:
    if not condition:
        raise ValueError(f"{what}, got {got!r}")


def _check_unit_interval(name: str, value: float | None) -> None:
    if value is not None:
        _require(0.0 <= value <= 1.0, f"{name} must lie in [0, 1]", value)


def _check_box(name: str, box: Box) -> None:
    finite = len(box) == 4 and all(math.isfinite(v) for v in box)
    _require(
        finite and box[0] <= box[2] and box[1] <= box[3], f"{name} must be finite x0 <= x1, y0 <= y1", box
    )


def _check_meaning(class_id: int | None, phrase: str | None) -> None:
    _require(
        class_id is None or phrase is None,
        "an instance has a class_id or a phrase, not both",
        (class_id, phrase),
    )
    _require(phrase is None or bool(phrase.strip()), "phrase must not be blank", phrase)


@dataclass(frozen=True, slots=True)
class RLE:
    """A COCO compressed run-length mask: `size` = (height, width), `counts` as text."""

    size: tuple[int, int]
    counts: str

    def __post_init__(self) -> None:
        _require(min(self.size) >= 1, "RLE size must be at least 1x1", self.size)


@dataclass(frozen=True, slots=True)
class Point:
    """One click: x, y in pixels; `label` 1 = on the object, 0 = off it."""

    x: float
    y: float
    label: int = 1

    def __post_init__(self) -> None:
        _require(math.isfinite(self.x) and math.isfinite(self.y), "point must be finite", (self.x, self.y))
        _require(self.label in (0, 1), "point label must be 0 or 1", self.label)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What SAM was (or will be) asked: a box and/or points, what they mean, who proposed them and how surely."""

    origin: Origin
    box_xyxy: Box | None = None
    points: tuple[Point, ...] = ()
    class_id: int | None = None
    phrase: str | None = None
    score: float | None = None

    def __post_init__(self) -> None:
        _require(self.box_xyxy is not None or bool(self.points), "a prompt needs a box or a point", None)
        if self.box_xyxy is not None:
            _check_box("prompt box", self.box_xyxy)
        _check_meaning(self.class_id, self.phrase)
        _check_unit_interval("prompt score", self.score)


@dataclass(frozen=True, slots=True)
class Match:
    """What Algorithm 1 did with a point (Das et al. 2024): the proposal it took, or why it kept SAM's own box.

    `proposal` is an index into the record's proposals, None when none was taken; `cost` is the entry of the assigned
    pair (also when that pair was invalid and so not taken), None when the point was assigned to nothing.
    """

    proposal: int | None
    cost: float | None
    iou: float | None = None

    def __post_init__(self) -> None:
        _check_unit_interval("match IoU", self.iou)


@dataclass(frozen=True, slots=True)
class Instance:
    """One labelled thing (or, with `semantic`, one mask of a whole class) and all that is known of it.

    `human_id` is the id of the human annotation it stems from. `score` is the confidence of a machine label, None for
    human ones; `model` is the digest of the weights that made its mask. `pred_iou` and `stability` are SAM's own
    estimates, `quality` is the calibrated one.
    `dropped` says why a later stage took it out; it stays in the record.
    """

    source: Source
    class_id: int | None = None
    phrase: str | None = None
    points: tuple[Point, ...] = ()
    box_xyxy: Box | None = None
    rle: RLE | None = None
    semantic: bool = False
    human_id: int | None = None
    weak_kind: WeakKind | None = None
    prompt: Prompt | None = None
    match: Match | None = None
    score: float | None = None
    pred_iou: float | None = None
    stability: float | None = None
    quality: float | None = None
    dropped: str | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        _check_meaning(self.class_id, self.phrase)
        if self.box_xyxy is not None:
            _check_box("instance box", self.box_xyxy)
        for name in ("score", "pred_iou", "stability", "quality"):
            _check_unit_interval(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Record:
    """One image and what is known of it.

    `tags`: class ids known present; None = unknown, () = checked and empty. `crowd`: regions of many objects, never
    instances. `dropped`: why the image is quarantined; a dropped record carries no new labels but is never lost.
    """

    image_id: int
    uri: str
    sha256: str
    width: int
    height: int
    split: str
    role: Role
    tags: tuple[int, ...] | None = None
    instructions: tuple[str, ...] = ()
    instances: tuple[Instance, ...] = ()
    proposals: tuple[Prompt, ...] = ()
    crowd: tuple[Instance, ...] = ()
    dropped: str | None = None

    def __post_init__(self) -> None:
        _require(
            self.width >= 1 and self.height >= 1, "image must be at least 1x1", (self.width, self.height)
        )
        size = (self.height, self.width)
        for instance in (*self.instances, *self.crowd):
            if instance.rle is not None:
                _require(
                    instance.rle.size == size, f"mask size must be the image's {size}", instance.rle.size
                )


@dataclass(frozen=True, slots=True)
class Category:
    """One class of the data set, its id as given by the user."""

    id: int
    name: str
    supercategory: str | None = None


@dataclass(frozen=True, slots=True)
class Ontology:
    """The classes of a data set in the order given."""

    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        ids = [category.id for category in self.categories]
        _require(len(set(ids)) == len(ids), "category ids must be unique", ids)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(category.id for category in self.categories)

    def name(self, class_id: int) -> str:
        """The name of a class; KeyError for an unknown id."""
        for category in self.categories:
            if category.id == class_id:
                return category.name
        raise KeyError(f"no class with id {class_id}; known ids: {self.ids}")
