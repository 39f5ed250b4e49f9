"""A Ray cluster as we use it: one that is started here, or one that runs already; its nodes and what they have."""

import ipaddress
import logging
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipeline.engine.faults import BadPlan, StageFailed
from pipeline.engine.files import own_folder
from pipeline.engine.nodes import Node, placement_problems
from pipeline.engine.plan import PlannedStage
from pipeline.engine.ray_reaper import start_reaper

FOLDER = "omray"
KNOCK_SECONDS = 5.0
STORE_BYTES = 100_000_000  # of Ray's object store; only unit names and reports pass through it
LOOPBACK = "127.0.0.1"
# The name is misleading: without this, 127.0.0.1 is replaced by the machine's own address.
KEEP_LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
SHORT = 43  # letters of a folder in which the paths of Ray's sockets (64 more) stay within the 107 that such may have
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",  # its idle workers outlive a killed driver by half a minute
    "RAY_memory_monitor_refresh_ms": "0",  # our supervisors watch memory, and know which image takes it
}


@dataclass
class Cluster:
    """A connection; `close` ends it, and the cluster too if it was started here."""

    address: str
    notes: tuple[str, ...] = ()
    reaper: "subprocess.Popen[bytes] | None" = None  # of a cluster that was started here
    _closed: bool = field(default=False, repr=False)

    def nodes(self) -> list[Node]:
        """The living nodes with all that they have."""
        import ray

        known = ray.nodes()  # type: ignore[no-untyped-call]
        alive = [node for node in known if node["Alive"]]
        return [Node(node["NodeID"], dict(node["Resources"])) for node in alive]

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


def _join(asked: str) -> Cluster:
    address = _auto() if asked == "auto" else asked
    host = _knock(address)  # Ray would try for two minutes
    os.environ["RAY_ADDRESS"] = address  # which Ray prefers to what it is told
    if _is_loopback(host):
        os.environ.setdefault(*KEEP_LOOPBACK)
    import ray

    try:
        with _our_signals():
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadPlan((REFUSED.format(address, " ".join(str(error).split())),)) from error
    found = ray.get_runtime_context().gcs_address
    return Cluster(found, () if _is_guarded(found) else (UNGUARDED.format(found),))


def _auto() -> str:
    """The cluster that the environment names, or that was started last on this machine by `ray start`."""
    if os.environ.get("RAY_ADDRESS"):
        return os.environ["RAY_ADDRESS"]
    from ray._private import services

    found = services.find_bootstrap_address(None)
    if not found:
        raise BadPlan(
            (
                "--ray-address: auto: no Ray cluster was started on this machine by `ray start`, and RAY_ADDRESS names "
                "none; expected one, or HOST:PORT",
            )
        )
    return str(found)


def _knock(address: str) -> str:
    """The host of an address at which something answers."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise BadPlan((f"--ray-address: expected auto or HOST:PORT, found {address}",))
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise BadPlan((f"--ray-address: no Ray cluster at {address}: {error}",)) from error
    return host.strip("[]")


REFUSED = (
    "--ray-address: something answers at {}, but it could not be joined: {} (a Ray of another version, or another "
    "token: RAY_AUTH_MODE, RAY_AUTH_TOKEN and ~/.ray/auth_token are to be those of the cluster)"
)
FAILED = "a Ray of the run's own could not be started on this machine; the same command tries again: {}"
UNGUARDED = (
    "the Ray cluster at {} asks for no token: whoever reaches its ports can run code on it; set "
    "RAY_AUTH_MODE=token on all its nodes (docs/cluster.md)"
)


def _is_guarded(gcs_address: str) -> bool:
    return _is_loopback(gcs_address.rpartition(":")[0]) or os.environ.get("RAY_AUTH_MODE") == "token"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _start() -> Cluster:
    # Ray reads these when it is imported, and only then. Other users of this machine reach its loopback device too.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault(*KEEP_LOOPBACK)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    folder = own_folder(FOLDER)
    if len(str(folder)) > SHORT:
        folder.rmdir()
        folder = own_folder(FOLDER, Path("/tmp"))
    reaper = start_reaper(folder)
    try:
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
    except Exception as error:  # of no kind of its own: Ray raises that for a raylet that dies
        reaper.communicate()
        raise StageFailed(FAILED.format(" ".join(str(error).split()))) from error
    return Cluster(ray.get_runtime_context().gcs_address, reaper=reaper)


@contextmanager
def _our_signals() -> Iterator[None]:
    """Keep our handler of SIGTERM while Ray starts, and put it in again behind Ray's native one, which aborts.

    The other of Ray's two raises SystemExit: the run would end with another code or, where that is raised in a
    callback of the interpreter's, which drops it, go on as if nothing had been asked of it. And Ray's processes get a
    group of their own: who signals the run's whole group would end them, and the start would wait for them in vain.
    """
    from ray._private import services, utils

    handler, popen, ours = utils.set_sigterm_handler, services.ConsolePopen, signal.getsignal(signal.SIGTERM)
    utils.set_sigterm_handler = lambda _: None
    services.ConsolePopen = partial(popen, process_group=0)  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        utils.set_sigterm_handler, services.ConsolePopen = handler, popen  # type: ignore[misc]
        signal.signal(signal.SIGTERM, ours)
