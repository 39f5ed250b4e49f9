"""Trials with more than one of something: two drivers on a store, two machines in a cluster."""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import IO

from benchmarks.torture import verdict
from benchmarks.torture.driver import Driver
from benchmarks.torture.ground import LOCAL, Trial, driver_environment
from benchmarks.torture.kills import IDLE, SILENT, STALLED, finish_and_judge, let_work, of_role
from benchmarks.torture.processes import ACTOR, WORKER, kill, processes_of
from benchmarks.torture.watch import heartbeats, images_in_hand

BUSY = 4  # exit code
LATE = 1.0  # seconds in which who was stopped may finish what it had in hand


def two(trial: Trial) -> None:
    """Two drivers on one store: both end with the same bytes, in one folder one of them ends with 4."""
    first = trial.start()
    ways = [_one_folder, _two_folders]
    trial.draw.choice(ways if trial.engine != LOCAL else [*ways, _late])(trial, first)


def _one_folder(trial: Trial, first: Driver) -> None:
    trial.how = "one folder"
    first.sleep(trial.draw.uniform(0, trial.oracle.seconds))
    first.until((trial.left.run / ".lock").exists)
    running = first.is_running
    second = trial.start()
    code = second.wait()
    if running and first.is_running:
        trial.expect(code == BUSY, f"the second ended with {code}, expected {BUSY}: {second.told()[-400:]}")
        trial.expect(f"process {first.pid} on" in second.told(), f"not told who: {second.told()[-400:]}")
        trial.kills += 1
    code = first.wait()
    trial.expect(code == 0, f"the first ended with {code}: {first.told()[-400:]}")
    trial.no_strays()
    trial.judge()


def _two_folders(trial: Trial, first: Driver) -> None:
    trial.how = "two folders"
    first.sleep(trial.draw.uniform(0, trial.oracle.seconds))
    trial.kills += first.is_running
    other = _second(trial)
    code = first.wait()
    trial.expect(code == 0, f"the first ended with {code}: {first.told()[-400:]}")
    trial.no_strays()
    trial.judge()
    _judge_also(trial, other)


def _late(trial: Trial, first: Driver) -> None:
    """The first is stopped with images in hand, the second makes that unit too, then the first goes on with it."""
    trial.how = "two folders, one late"
    first.until(lambda: bool(of_role(trial, WORKER)))
    let_work(trial, first)
    stopped = [*of_role(trial, WORKER), first.pid] if first.is_running else []
    for pid in reversed(stopped):
        kill(pid, signal.SIGSTOP)
    beats = heartbeats(trial.left.run, trial.left.temp, on_ray=False)
    trial.kills += any(images_in_hand(beats, pid) for pid in stopped)
    other = _second(trial) if trial.kills else None  # without: in ingest, for which the second would wait
    for pid in stopped:
        kill(pid, signal.SIGCONT)
        time.sleep(LATE)
    code = first.wait()
    told = first.told()
    idle = code == STALLED and IDLE in told  # it was stopped for longer than that
    trial.expect(code == 0 or idle, f"the first ended with {code}: {told[-400:]}")
    trial.no_strays()
    finish_and_judge(trial)
    if other is not None:
        _judge_also(trial, other)


def _second(trial: Trial) -> verdict.Left:
    """The same command in another folder, to its end; the folders."""
    other = replace(trial.left, run=trial.folder / "other")
    second = trial.start(f"--out={other.run}")
    code = second.wait()
    trial.expect(code == 0, f"the second ended with {code}: {second.told()[-400:]}")
    return other


def _judge_also(trial: Trial, other: verdict.Left) -> None:
    trial.failures += verdict.judge(other, inputs=trial.oracle.inputs, oracle=trial.oracle.contents)


def raylets(trial: Trial) -> None:
    """A cluster of two machines (raylets on this host), one of which is taken away in the midst of the work.

    Or it is stopped, with all its workers, until the others have made what it had in hand, and then goes on with it.
    """
    command = [sys.executable, "-m", "benchmarks.torture.cluster"]
    environment = driver_environment(trial)
    with subprocess.Popen(
        command, cwd=trial.folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        address, second = cluster.stdout.readline().split()
        lost, before, number = 0, verdict.committed(trial.left.store), signal.SIGKILL
        node: list[int] = []
        with trial.watching() as watcher:
            run = trial.start(f"--ray-address={address}")
            if let_work(trial, run):
                number = trial.draw.choice((signal.SIGKILL, signal.SIGSTOP))
                before = verdict.committed(trial.left.store)
                node, lost = _node(trial, int(second))
                # At once: what begins while Ray takes a node away would not be counted.
                for pid in node if number == signal.SIGSTOP else node[:1]:
                    kill(pid, number)
                trial.kills = 1
            trial.how = number.name
            code = run.wait()
            if code == STALLED and SILENT in run.told():  # Ray takes longer to notice than the run waits
                run = trial.start(f"--ray-address={address}")
                code = run.wait()
        trial.expect(code == 0, f"ended with {code}: {run.told()[-400:]}")
        trial.failures += verdict.written_again(before, trial.left.store)
        if number == signal.SIGSTOP:
            for pid in node:
                kill(pid, signal.SIGCONT)
            time.sleep(LATE)
            node = sorted({*node, *_node(trial, int(second))[0]})
        _remove_second(cluster.stdin, cluster.stdout)
        for process in processes_of(trial.folder):
            if process.pid in node and process.role not in (ACTOR, WORKER):
                kill(process.pid)  # Ray's own, which may try for a minute to reach what is gone
        cluster.stdin.close()
    trial.no_strays()
    shutil.rmtree(trial.left.temp / "ray")  # the cluster's, not the run's
    for path in (path for pid in node for path in trial.left.temp.glob(f"omworker-{pid}-*")):
        shutil.rmtree(path)  # a machine that is gone cannot; the next worker on it would
    trial.redone = watcher.redone
    trial.failures += watcher.wrong(lost)
    trial.judge()


def _node(trial: Trial, raylet: int) -> tuple[list[int], int]:
    """A raylet and all below it, and how many of these are actors."""
    found = processes_of(trial.folder)
    actors = {p.pid for p in found if p.role == ACTOR and p.parent == raylet}
    below = [p.pid for p in found if p.parent == raylet or p.parent in actors]
    return [raylet, *below], len(actors)


def _remove_second(orders: IO[str], answers: IO[str]) -> None:
    orders.write("remove\n")
    orders.flush()
    answers.readline()
