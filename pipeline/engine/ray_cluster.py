"""A Ray cluster as we use it: one that is started here, or one that runs already; its nodes and what they have."""

import ipaddress
import logging
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.engine.faults import BadPlan
from pipeline.engine.files import own_folder
from pipeline.engine.plan import PlannedStage
from pipeline.engine.ray_reaper import start_reaper
from pipeline.engine.stage import Resources

GB = 1_000_000_000
FOLDER = "omray"
KNOCK_SECONDS = 5.0
STORE_BYTES = 100_000_000  # of Ray's object store; only unit names and reports pass through it
LOOPBACK = "127.0.0.1"
NAMES = (("CPU", "CPUs"), ("GPU", "GPUs"), ("memory", "GB of memory"))
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",  # its idle workers outlive a killed driver by half a minute
    "RAY_memory_monitor_refresh_ms": "0",  # our supervisors watch memory, and know which image takes it
}


@dataclass(frozen=True)
class Need:
    """What one worker takes of a node, by Ray's names; memory in bytes."""

    amounts: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, resources: Resources) -> "Need":
        """The need of one worker of a stage."""
        memory = 0.0 if resources.memory_gb is None else resources.memory_gb * GB
        wanted = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": memory}
        return cls(tuple((name, amount) for name, amount in wanted.items() if amount))

    def __str__(self) -> str:
        return _named(dict(self.amounts))


@dataclass
class Node:
    """A node and what of it our workers do not take yet."""

    id: str
    free: dict[str, float]

    def fits(self, need: Need) -> bool:
        """Whether there is room for one more worker."""
        return all(self.free.get(name, 0.0) + 1e-9 >= amount for name, amount in need.amounts)

    def take(self, need: Need) -> None:
        """Give a worker its room."""
        for name, amount in need.amounts:
            self.free[name] = self.free.get(name, 0.0) - amount


@dataclass
class Cluster:
    """A connection; `close` ends it, and the cluster too if it was started here."""

    address: str
    notes: tuple[str, ...] = ()
    reaper: "subprocess.Popen[bytes] | None" = None  # of a cluster that was started here
    _closed: bool = field(default=False, repr=False)

    def nodes(self) -> list[Node]:
        """The living nodes with all that they have, those with most room first."""
        import ray

        known = ray.nodes()  # type: ignore[no-untyped-call]
        alive = [node for node in known if node["Alive"]]
        nodes = [Node(node["NodeID"], dict(node["Resources"])) for node in alive]
        return sorted(nodes, key=lambda node: (-node.free.get("CPU", 0.0), node.id))

    def close(self) -> None:
        """Leave."""
        import ray

        if not self._closed:
            self._closed = True
            ray.shutdown()
            if self.reaper is not None:
                self.reaper.communicate()


def connect(address: str | None, needed: Sequence[PlannedStage]) -> Cluster:
    """Join the cluster at `address` ("auto", host:port) or start one here, quiet and on the loopback device only.

    BadPlan if there is none, or if one of the stages could never be placed on it.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    cluster = _join(address) if address else _start()
    problems = placement_problems(needed, cluster.nodes())
    if problems:
        cluster.close()
        raise BadPlan(tuple(problems))
    return cluster


def _join(address: str) -> Cluster:
    if address != "auto":
        _knock(address)  # Ray would try for two minutes
    import ray

    try:
        with _our_signals():
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadPlan((f"--ray-address: no Ray cluster at {address}: {error}",)) from error
    found = ray.get_runtime_context().gcs_address
    return Cluster(found, () if _is_guarded(found) else (UNGUARDED.format(found),))


def _knock(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise BadPlan((f"--ray-address: expected auto or HOST:PORT, found {address}",))
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
    except OSError as error:
        raise BadPlan((f"--ray-address: no Ray cluster at {address}: {error}",)) from error


UNGUARDED = (
    "the Ray cluster at {} asks for no token: whoever reaches its ports can run code on it; set "
    "RAY_AUTH_MODE=token on all its nodes (docs/cluster.md)"
)


def _is_guarded(gcs_address: str) -> bool:
    try:
        local = ipaddress.ip_address(gcs_address.rpartition(":")[0].strip("[]")).is_loopback
    except ValueError:
        local = False
    return local or os.environ.get("RAY_AUTH_MODE") == "token"


def _start() -> Cluster:
    # Ray reads these when it is imported, and only then. Other users of this machine reach its loopback device too.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Its name is misleading: without this, 127.0.0.1 is replaced by the machine's own address.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    folder = own_folder(FOLDER)
    reaper = start_reaper(folder)
    with _our_signals():
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            object_store_memory=STORE_BYTES,
            _node_ip_address=LOOPBACK,
            _temp_dir=str(folder),
        )
    return Cluster(ray.get_runtime_context().gcs_address, reaper=reaper)


@contextmanager
def _our_signals() -> Iterator[None]:
    """Keep our handler of SIGTERM while Ray starts, and put it in again behind Ray's native one, which aborts.

    The other of Ray's two raises SystemExit: the run would end with another code or, where that is raised in a
    callback of the interpreter's, which drops it, go on as if nothing had been asked of it.
    """
    from ray._private import utils

    theirs, ours = utils.set_sigterm_handler, signal.getsignal(signal.SIGTERM)
    utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = theirs
        signal.signal(signal.SIGTERM, ours)


def placement_problems(stages: Sequence[PlannedStage], nodes: Sequence[Node]) -> list[str]:
    """Why a stage's fewest workers could not be placed even if nothing else ran; empty if all can."""
    problems = []
    for stage in stages:
        need, fewest = Need.of(stage.resources), max(stage.resources.workers[0], stage.world)
        room = [Node(node.id, dict(node.free)) for node in nodes]
        placed = 0
        while placed < fewest and (node := next((n for n in room if n.fits(need)), None)):
            node.take(need)
            placed += 1
        if placed < fewest:
            there = "; ".join(_named(node.free) for node in nodes) or "no node"
            wanted = f"{stage.label}: resources: {fewest} workers of {need} each do not fit, only {placed}"
            problems.append(f"{wanted}; the nodes have {there}")
    return problems


def _named(amounts: Mapping[str, float]) -> str:
    """ "2 CPUs, 1 GPUs, 3.5 GB of memory"."""
    shown = []
    for key, name in NAMES:
        amount = amounts.get(key, 0.0) / (GB if key == "memory" else 1)
        if amount:
            shown.append(f"{amount:.3g} {name}")
    return ", ".join(shown) or "nothing"
