"""Trials with more than one of something: two drivers on a store, two machines in a cluster."""

import shutil
import subprocess
import sys
from dataclasses import replace

from benchmarks.torture import verdict
from benchmarks.torture.ground import Trial, driver_environment
from benchmarks.torture.kills import SILENT, STALLED, let_work
from benchmarks.torture.processes import ACTOR, kill, processes_of

BUSY = 4  # exit code


def two(trial: Trial) -> None:
    """Two drivers on one store: in two folders both end with the same bytes, in one folder one of them ends with 4."""
    first = trial.start()
    first.sleep(trial.draw.uniform(0, trial.oracle.seconds))
    same = trial.draw.random() < 0.5
    other = replace(trial.left, run=trial.folder / "other")
    if same:
        first.until((trial.left.run / ".lock").exists)
        running = first.is_running
        second = trial.start()
        code = second.wait()
        if running and first.is_running:
            trial.expect(
                code == BUSY, f"the second ended with {code}, expected {BUSY}: {second.told()[-400:]}"
            )
            trial.expect(f"process {first.pid} on" in second.told(), f"not told who: {second.told()[-400:]}")
            trial.kills += 1
    else:
        second = trial.start(f"--out={other.run}")
        code = second.wait()
        trial.expect(code == 0, f"the second ended with {code}: {second.told()[-400:]}")
        trial.kills += 1
    code = first.wait()
    trial.how = "one folder" if same else "two folders"
    trial.expect(code == 0, f"the first ended with {code}: {first.told()[-400:]}")
    trial.no_strays()
    trial.judge()
    if not same:
        trial.failures += verdict.judge(other, inputs=trial.oracle.inputs, oracle=trial.oracle.contents)


def raylets(trial: Trial) -> None:
    """A cluster of two machines (raylets on this host), one of which is taken away in the midst of the work."""
    command = [sys.executable, "-m", "benchmarks.torture.cluster"]
    environment = driver_environment(trial)
    with subprocess.Popen(
        command, cwd=trial.folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        address, second = cluster.stdout.readline().split()
        lost, before = 0, verdict.committed(trial.left.store)
        with trial.watching() as watcher:
            run = trial.start(f"--ray-address={address}")
            if let_work(trial, run):
                found = processes_of(trial.folder)
                lost = sum(p.role == ACTOR and p.parent == int(second) for p in found)
                before = verdict.committed(trial.left.store)
                kill(int(second))  # at once: what begins while Ray takes a node away would not be counted
                cluster.stdin.write("remove\n")
                cluster.stdin.flush()
                cluster.stdout.readline()
                trial.kills = 1
            code = run.wait()
            if code == STALLED and SILENT in run.told():  # Ray takes longer to notice than the run waits
                run = trial.start(f"--ray-address={address}")
                code = run.wait()
        trial.expect(code == 0, f"ended with {code}: {run.told()[-400:]}")
        cluster.stdin.close()
    trial.no_strays()
    shutil.rmtree(trial.left.temp / "ray")  # the cluster's, not the run's
    trial.redone = watcher.redone
    trial.failures += watcher.wrong(lost)
    trial.failures += verdict.written_again(before, trial.left.store)
    trial.judge()
