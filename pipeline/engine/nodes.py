"""The machines of a cluster as numbers: what a worker needs, what a node has free, and where one more finds room."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.engine.plan import PlannedStage
from pipeline.engine.stage import Resources

GB = 1_000_000_000
CPU, GPU, MEMORY = "CPU", "GPU", "memory"  # as Ray calls them
NAMES = ((CPU, "CPUs"), (GPU, "GPUs"), (MEMORY, "GB of memory"))
EPSILON = 1e-9


@dataclass(frozen=True)
class Need:
    """What one worker takes of a node, by Ray's names; memory in bytes."""

    amounts: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, resources: Resources) -> "Need":
        """The need of one worker of a stage."""
        memory = 0.0 if resources.memory_gb is None else resources.memory_gb * GB
        wanted = {CPU: resources.cpus, GPU: resources.gpus, MEMORY: memory}
        return cls(tuple((name, amount) for name, amount in wanted.items() if amount))

    @property
    def gpus(self) -> float:
        """GPUs: whole ones, or a part of one."""
        return dict(self.amounts).get(GPU, 0.0)

    def __str__(self) -> str:
        return named(dict(self.amounts))


@dataclass
class Node:
    """A node and what of it our workers do not take yet; `gpus`: what is free of each, as a part is one GPU's."""

    id: str
    free: dict[str, float]
    gpus: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gpus = self.gpus or [1.0] * int(self.free.get(GPU, 0))

    def copy(self) -> "Node":
        """Another to try things on."""
        return Node(self.id, dict(self.free), list(self.gpus))

    def fits(self, need: Need) -> bool:
        """Whether there is room for one more worker."""
        others = (pair for pair in need.amounts if pair[0] != GPU)
        enough = all(self.free.get(name, 0.0) + EPSILON >= amount for name, amount in others)
        return enough and len(self._with_room(need)) >= need.gpus

    def take(self, need: Need) -> None:
        """Give a worker its room; also where there seems to be none, as it has found some."""
        for name, amount in need.amounts:
            self.free[name] = self.free.get(name, 0.0) - amount
        part = min(need.gpus, 1.0)
        for _ in range(round(need.gpus) if need.gpus >= 1 else int(need.gpus > 0)):
            places = self._with_room(need) or range(len(self.gpus))
            if places:
                self.gpus[min(places, key=self.gpus.__getitem__)] -= (
                    part  # the fullest, so that others stay whole
                )

    def _with_room(self, need: Need) -> Sequence[int]:
        part = min(need.gpus, 1.0)
        return [number for number, free in enumerate(self.gpus) if part and free + EPSILON >= part]


def placed(nodes: Sequence[Node], needs: Sequence[Need]) -> int:
    """How many of these workers find room, one after the other."""
    room = [node.copy() for node in nodes]
    count = 0
    for need in needs:
        node = next((node for node in room if node.fits(need)), None)
        if node is not None:
            node.take(need)
            count += 1
    return count


def choose(
    nodes: Sequence[Node], need: Need, *, reserved: Sequence[Need], liked: Callable[[Node], float]
) -> Node | None:
    """The node for one more worker, the best liked first; one with GPUs last for a worker that needs none.

    None if there is no room, or if it would be taken from those that room is `reserved` for.
    """
    before = placed(nodes, reserved)

    def order(node: Node) -> tuple[bool, float, float, str]:
        return (bool(node.gpus) and not need.gpus, -liked(node), -node.free.get(CPU, 0.0), node.id)

    for node in sorted(nodes, key=order):
        if node.fits(need):
            taken = [other.copy() for other in nodes]
            taken[list(nodes).index(node)].take(need)
            if placed(taken, reserved) >= before:
                return node
    return None


def placement_problems(stages: Sequence[PlannedStage], nodes: Sequence[Node]) -> list[str]:
    """Why a stage's fewest workers could not be placed even if nothing else ran; empty if all can."""
    problems = []
    for stage in stages:
        need, fewest = Need.of(stage.resources), max(stage.resources.workers[0], stage.world)
        fitting = placed(nodes, [need] * fewest)
        if fitting < fewest:
            wanted = f"{stage.label}: resources: {fewest} workers of {need} each do not fit, only {fitting}"
            problems.append(f"{wanted}; the nodes have {described(nodes)}")
    return problems


def described(nodes: Sequence[Node]) -> str:
    """ "2 CPUs, 1 GPUs; 8 CPUs"."""
    return "; ".join(named(node.free) for node in nodes) or "no node"


def named(amounts: Mapping[str, float]) -> str:
    """ "2 CPUs, 1 GPUs, 3.5 GB of memory"."""
    shown = []
    for key, name in NAMES:
        amount = amounts.get(key, 0.0) / (GB if key == MEMORY else 1)
        if amount:
            shown.append(f"{amount:.3g} {name}")
    return ", ".join(shown) or "nothing"
