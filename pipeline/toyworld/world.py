"""The vocabularies of the toy worlds. A new look or a new class is a new world, never an edit of these."""

from dataclasses import dataclass

SIZE = 256
WORLDS: tuple[str, ...] = ("demo", "pretrain")


@dataclass(frozen=True)
class ToyClass:
    """One category: `id` from 1, synonyms a text prompt may use, and the names of wholes it can be a part of."""

    id: int
    name: str
    synonyms: tuple[str, ...]
    part_of: tuple[str, ...]


_Row = tuple[str, tuple[str, ...], tuple[str, ...]]

_DEMO: tuple[_Row, ...] = (
    ("car", ("automobile", "vehicle"), ()),
    ("house", ("building", "home"), ()),
    ("tree", ("plant",), ()),
    ("boat", ("sailboat", "ship"), ()),
    ("bicycle", ("bike", "cycle"), ()),
    ("person", ("human", "figure"), ()),
    ("robot", ("android", "machine"), ()),
    ("fish", ("sea animal",), ()),
    ("wheel", ("tyre", "tire"), ("car", "bicycle", "robot")),
    ("window", ("pane",), ("house", "car", "boat")),
    ("door", ("entrance", "gate"), ("house", "car")),
    ("roof", ("rooftop",), ("house",)),
    ("sail", ("canvas",), ("boat",)),
    ("hat", ("headwear",), ("person", "robot")),
    ("circle", ("disc", "disk"), ()),
    ("square", ("quadrate",), ()),
    ("star", ("pentagram",), ()),
    ("triangle", ("trigon",), ()),
)

_PRETRAIN: tuple[_Row, ...] = (
    ("vase", ("jar",), ()),
    ("lamp", ("light",), ()),
    ("rocket", ("missile",), ()),
    ("mushroom", ("toadstool",), ()),
    ("cup", ("mug",), ()),
    ("key", ("latchkey",), ()),
    ("butterfly", ("moth",), ()),
    ("snail", ("slug",), ()),
    ("chair", ("seat",), ()),
    ("flower", ("blossom",), ()),
    ("umbrella", ("parasol",), ()),
    ("hammer", ("mallet",), ()),
    ("blob", ("splash",), ()),
    ("shard", ("splinter",), ()),
    ("gear", ("cog",), ()),
    ("creature", ("bug",), ()),
    ("gadget", ("contraption",), ()),
    ("coral", ("twig",), ()),
    ("handle", ("grip",), ("cup", "vase", "umbrella", "hammer")),
    ("wing", ("pinion",), ("butterfly",)),
    ("leg", ("limb",), ("chair", "creature")),
    ("petal", ("floral leaf",), ("flower",)),
    ("shell", ("carapace",), ("snail",)),
    ("fin", ("vane",), ("rocket",)),
    ("cap", ("lid",), ("mushroom", "lamp")),
)


def _number(rows: tuple[_Row, ...]) -> tuple[ToyClass, ...]:
    return tuple(ToyClass(i, *row) for i, row in enumerate(rows, start=1))


_CLASSES: dict[str, tuple[ToyClass, ...]] = {"demo": _number(_DEMO), "pretrain": _number(_PRETRAIN)}


def classes(world: str) -> tuple[ToyClass, ...]:
    """The categories of a world, ids 1..n in order. Raises ValueError for an unknown world."""
    if world not in _CLASSES:
        raise ValueError(f"toyworld: unknown world {world!r}, expected one of {', '.join(WORLDS)}")
    return _CLASSES[world]
