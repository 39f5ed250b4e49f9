"""Weak labels: what a run may see of an image, who gets masks, and how full labels are made weak (simulation).

Everything drawn at random here is a hash of the seed and of ids, so it depends on no order, platform or library.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from pipeline.data import masks
from pipeline.data.errors import BadInput
from pipeline.data.records import Instance, Point, Record, Role, Source, WeakKind

RESERVED_FROM = 20  # human-masked images; below, cross-fitting takes the place of reserved masks
RESERVED_SHARE = 0.2


def parse_kind(text: str) -> WeakKind:
    """The weak kind of a `--weak` value; BadInput lists the kinds."""
    try:
        return WeakKind(text)
    except ValueError:
        raise BadInput(f"weak: expected one of {', '.join(WeakKind)}, found {text!r}") from None


def parse_masks(text: str) -> float:
    """The fraction 0..1 of a `--masks` value such as 10% or 0.5%; BadInput for anything else."""
    number = text.strip().removesuffix("%")
    try:
        percent = float(number)
    except ValueError:
        percent = -1.0
    if not (text.strip().endswith("%") and number == number.strip() and 0 <= percent <= 100):
        raise BadInput(f"masks: expected a percentage from 0% to 100%, found {text!r}")
    return percent / 100


def _rank(purpose: str, seed: int, image_id: int) -> bytes:
    return hashlib.sha256(f"{purpose}:{seed}:{image_id}".encode()).digest()


@dataclass(frozen=True, slots=True)
class MaskShare:
    """How many train images keep their human masks: a fraction 0..1 of all, or a number of shots."""

    fraction: float | None = None
    shots: int | None = None

    def __post_init__(self) -> None:
        if (self.fraction is None) == (self.shots is None):
            found = "neither" if self.shots is None else f"{self.fraction:.4g} and {self.shots}"
            raise BadInput(f"expected masks or shots, not both, found {found}")
        if not 0 <= (self.fraction or 0) <= 1 or (self.shots or 0) < 0:
            raise BadInput(f"expected masks of 0% to 100% or shots of at least 0, found {self}")

    def count(self, images: int) -> int:
        """Images of a train set that keep their masks: rounded, and at least one unless the share is 0."""
        if self.shots is not None:
            return self.shots
        fraction = self.fraction or 0.0
        return min(images, max(1, int(fraction * images + 0.5))) if fraction > 0 else 0


def assign_roles(
    image_ids: Collection[int],
    share: MaskShare,
    *,
    seed: int,
    maskable: Collection[int] | None = None,
    last: Collection[int] = (),
) -> dict[int, Role]:
    """The role of every train image: human_masked, reserved or weak.

    Images are taken by a hash rank of (seed, image_id), so that a smaller share lies within a larger one; `maskable`
    are those that have masks at all (default: every image), those in `last` (say, without any annotation) are taken
    only after all others. From 20 human-masked images on, a seeded fifth of them is reserved.
    BadInput when there are fewer maskable images than asked for.
    """
    candidates = image_ids if maskable is None else maskable
    wanted = share.count(len(image_ids))
    if wanted > len(candidates):
        asked = f"{wanted} of {len(image_ids)} train images with human masks"
        raise BadInput(
            f"masks: asked for {asked}, but only {len(candidates)} have masks; lower --masks or --shots"
        )
    late = frozenset(last)
    ranked = sorted(candidates, key=lambda i: (i in late, _rank("masks", seed, i), i))[:wanted]
    roles = dict.fromkeys(sorted(image_ids), Role.WEAK)
    roles.update(dict.fromkeys(ranked, Role.HUMAN_MASKED))
    if wanted >= RESERVED_FROM:
        reserved = sorted(ranked, key=lambda i: (_rank("reserved", seed, i), i))
        roles.update(dict.fromkeys(reserved[: int(RESERVED_SHARE * wanted + 0.5)], Role.RESERVED))
    return roles


def simulate(full: Record, kind: WeakKind, seed: int) -> Record:
    """What a run with `--weak=kind` may see of a weak image whose full labels (or given weak labels) are `full`.

    Masks become what the kind allows: a point (one uniformly random foreground pixel, drawn from seed, image id and
    human id alone), a tight box, or a tag; weak labels that are there already are kept up to the kind. Crowd regions,
    proposals and, but for kind `instruction`, instructions are hidden; so are machine labels, which are no weak labels.
    """
    visible = replace(full, role=Role.WEAK, tags=None, instructions=(), instances=(), proposals=(), crowd=())
    full = replace(full, instances=tuple(i for i in full.instances if i.source is Source.HUMAN))
    if kind is WeakKind.INSTRUCTION:
        return replace(visible, instructions=full.instructions)
    if kind is WeakKind.NONE:
        return visible
    localised: list[Instance] = []
    if kind is not WeakKind.CLASS:
        labels = (_localise(instance, full.image_id, kind, seed) for instance in full.instances)
        localised = [label for label in labels if label is not None]
    return replace(visible, tags=_tags(full), instances=tuple(localised))


def _tags(full: Record) -> tuple[int, ...] | None:
    """Classes known present; None when none is known and nobody says that there is none (phrases are no classes)."""
    classes = {i.class_id for i in full.instances if i.class_id is not None}
    return None if full.tags is None and not classes else tuple(sorted(classes | set(full.tags or ())))


def _localise(instance: Instance, image_id: int, kind: WeakKind, seed: int) -> Instance | None:
    """The label of one instance at a localised kind or below; None when only its class may be seen."""
    # Built from nothing, not from the full instance less some fields: a field added later must not leak.
    weak = Instance(
        Source.HUMAN,
        class_id=instance.class_id,
        phrase=instance.phrase,
        semantic=instance.semantic,
        human_id=instance.human_id,
        weak_kind=kind,
    )
    if kind is WeakKind.BOX:
        box = instance.box_xyxy if instance.rle is None else masks.tight_box(instance.rle)
        if box is not None:
            return replace(weak, box_xyxy=box)
    points = given_points(instance) or _random_point(instance, image_id, seed)
    return replace(weak, points=points, weak_kind=WeakKind.POINT) if points else None


def given_points(instance: Instance) -> tuple[Point, ...]:
    """The points a human gave, () unless one of them lies on the object."""
    return instance.points if any(point.label == 1 for point in instance.points) else ()


def _random_point(instance: Instance, image_id: int, seed: int) -> tuple[Point, ...]:
    """One foreground pixel's centre, () without a mask or for an empty one."""
    if instance.rle is None or not (size := masks.area(instance.rle)):
        return ()
    if instance.human_id is None:
        raise ValueError(f"image {image_id}: an instance without a human id has no reproducible point")
    digest = hashlib.sha256(f"point:{seed}:{image_id}:{instance.human_id}".encode()).digest()
    x, y = masks.foreground_pixel(instance.rle, int.from_bytes(digest, "big") % size)
    return (Point(x + 0.5, y + 0.5),)


def lacks(record: Record, kind: WeakKind) -> str | None:
    """Why a full (or weakly labelled) record cannot show `kind`; None when it can."""
    things = [i for i in record.instances if i.class_id is not None or i.phrase is not None]
    if kind is WeakKind.NONE:
        return None
    if kind is WeakKind.INSTRUCTION:
        return None if record.instructions else "no instructions"
    if kind is WeakKind.CLASS:
        return None if _tags(record) is not None else "neither tags nor annotations with a class"
    if not things and record.tags is not None:
        return None if not record.tags else "tags, but no annotation"
    if kind is WeakKind.POINT:
        located = [i for i in things if i.rle is not None or given_points(i)]
        return None if located else "no annotation with a mask or point_coords"
    located = [i for i in things if i.rle is not None or i.box_xyxy is not None]
    return None if located else "no annotation with a mask or bbox"


def check_supports(records: Iterable[Record], kind: WeakKind, *, source: str) -> None:
    """Refuse a data set that holds `kind` nowhere: BadInput names the file, the first image and what it lacks.

    Mixed kinds are normal, so one image that shows the kind (or more) is enough; an image that is known to be empty
    proves nothing either way.
    """
    first: str | None = None
    for record in records:
        reason = lacks(record, kind)
        empty = not record.instances and not record.tags and kind not in (WeakKind.NONE, WeakKind.INSTRUCTION)
        if reason is None and not empty:
            return
        if reason is not None and first is None:
            first = f"image {record.image_id} ({record.uri}): {reason}"
    if first is not None:
        raise BadInput(f"{source}: holds no labels of kind {kind}; {first}")
