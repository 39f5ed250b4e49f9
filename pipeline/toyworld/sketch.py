"""A drawing before it is placed: a tree of nodes (whole, parts, parts of parts) and the pieces that paint them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.toyworld.dice import Dice
from pipeline.toyworld.shapes import Contour


@dataclass(frozen=True)
class Node:
    """A named thing; `parent` is the index of an earlier node of the same sketch, -1 for the whole."""

    name: str
    parent: int
    role: int


@dataclass(frozen=True)
class Piece:
    """Contours filled at once with the colour and texture of `role`, owned by one node."""

    node: int
    contours: tuple[Contour, ...]
    role: int


@dataclass
class Sketch:
    """Pieces in painting order; node 0 is the whole. Roles: 0 main colour, 1-3 others, 4 dark, 5 light."""

    name: str
    nodes: list[Node] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)

    MAIN, SECOND, THIRD, FOURTH, DARK, LIGHT = range(6)

    def __post_init__(self) -> None:
        self.nodes.append(Node(self.name, -1, self.MAIN))

    def part(self, name: str, *contours: Contour, role: int, parent: int = 0) -> int:
        """Add a part painted with the contours; its index is the parent of parts of its own."""
        self.nodes.append(Node(name, parent, role))
        node = len(self.nodes) - 1
        if contours:
            self.fill(*contours, role=role, node=node)
        return node

    def fill(self, *contours: Contour, role: int, node: int = 0) -> None:
        """Paint more of a node, over everything painted so far."""
        self.pieces.append(Piece(node, contours, role))


Builder = Callable[[Dice], Sketch]
