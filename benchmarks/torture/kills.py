"""Trials that end or stop a process of a run at a random moment."""

import os
import signal
import time

from benchmarks.torture import processes, verdict
from benchmarks.torture.driver import LIMIT, Driver
from benchmarks.torture.ground import LOCAL, Trial
from benchmarks.torture.processes import ACTOR, GCS, RAYLET, WORKER, Clock
from benchmarks.torture.watch import heartbeats, images_in_hand

RAY_SLOWER = 1.6  # a run on Ray takes so many times as long, its start included
STALLED = 5  # exit code
SILENT = (
    "no sign of life from any worker"  # what the run says of it if whoever watches over the work is not there
)
IN_TIME = 10.0  # seconds from a signal to the end, or one image
AT_ONCE = 5.0  # seconds from a second signal to the end
NOTICED = 120.0  # seconds until a driver without a raylet has ended
FAULT = 1  # exit code, and what is said with it, without a raylet or the head
WHY = {RAYLET: "no machine of the Ray cluster is left", GCS: "GCS"}
IDLE = "no image in hand"  # said of a stall


def let_work(trial: Trial, driver: Driver) -> bool:
    """Let it work until a random moment, or until a random number of units is there; whether it still does."""
    if trial.draw.random() < 0.5:
        slower = 1.0 if trial.engine == LOCAL else RAY_SLOWER
        return driver.sleep(trial.draw.uniform(0, slower * trial.oracle.seconds))
    wanted = trial.draw.randint(min(trial.units(), trial.oracle.units - 1), trial.oracle.units - 1)
    found = driver.until(lambda: trial.units() >= wanted)
    return found and driver.sleep(trial.draw.uniform(0, 0.2))


def finish_and_judge(trial: Trial) -> None:
    """The same command to its end; nothing that is there now may be written again."""
    before = verdict.committed(trial.left.store)
    trial.finish()
    trial.failures += verdict.written_again(before, trial.left.store)
    trial.judge()


def of_role(trial: Trial, *roles: str) -> list[int]:
    """Ids of the trial's processes of these roles, in ascending order."""
    return sorted(process.pid for process in processes.processes_of(trial.folder) if process.role in roles)


def driver(trial: Trial) -> None:
    """Several SIGKILLs of the driver, each with the run begun anew: at once, or when all that it had is gone."""
    lost = 0
    with trial.watching() as watcher:
        for _ in range(trial.draw.randint(1, 4)):
            before = verdict.committed(trial.left.store)
            run = trial.start()
            if not let_work(trial, run):
                trial.expect(run.wait() == 0, f"ended by itself, but badly: {run.told()[-400:]}")
                break
            lost += len(of_role(trial, WORKER))
            trial.kills += run.kill()
            if trial.draw.random() < 0.5:
                trial.no_strays()
            trial.failures += verdict.written_again(before, trial.left.store)
            trial.failures += verdict.sound_store(trial.left.store)
        finish_and_judge(trial)
    trial.redone = watcher.redone
    trial.failures += watcher.wrong(lost)


def worker(trial: Trial) -> None:
    """SIGKILLs of worker processes (on Ray: of actors too) while one run goes on, a unit at least between two.

    The first may come before there is any unit, in ingest.
    """
    roles = (WORKER,) if trial.engine == LOCAL else (WORKER, ACTOR)
    before: dict[str, tuple[int, int]] = {}
    with trial.watching() as watcher:
        run = trial.start()
        if trial.draw.random() < 0.5:
            run.until(lambda: bool(of_role(trial, *roles)))
            run.sleep(trial.draw.uniform(0, 1.5))
            _kill_one(trial, run, *roles)
        for _ in range(trial.draw.randint(1, 4)):
            there = trial.units()
            run.until(lambda there=there: trial.units() > there)  # type: ignore[misc]
            run.sleep(trial.draw.uniform(0, 1.5))
            before |= verdict.committed(trial.left.store)
            _kill_one(trial, run, *roles)
        code = run.wait()
        trial.expect(code == 0, f"ended with {code}, expected 0: {run.told()[-400:]}")
        trial.no_strays()
    trial.redone = watcher.redone
    trial.failures += watcher.wrong(trial.kills)
    again = verdict.written_again(before, trial.left.store)
    if len(again) > trial.kills:  # a worker may be killed between its commit and its word of it
        trial.failures += again
    trial.judge()


def _kill_one(trial: Trial, run: Driver, *roles: str) -> None:
    found = of_role(trial, *roles)
    if found and run.is_running:
        trial.kills += processes.kill(trial.draw.choice(found))


def raylet(trial: Trial) -> None:
    """SIGKILL of the raylet or of the cluster's head: the driver must end by itself, soon, and say why."""
    victim = trial.draw.choice((RAYLET, RAYLET, GCS))
    lost = 0
    with trial.watching() as watcher:
        run = trial.start()
        run.until(lambda: bool(of_role(trial, WORKER)))  # Ray has started: what it says before is its own
        if let_work(trial, run):
            lost = len(of_role(trial, WORKER))
            trial.kills += processes.kill(of_role(trial, victim)[0])
            code = run.wait(NOTICED)
            trial.how = f"{victim}: exit {code}"
            named = code == FAULT and WHY[victim] in run.told()
            trial.expect(
                code == 0 or named, f"ended with {code}, expected {WHY[victim]!r}: {run.told()[-400:]}"
            )
        else:
            run.wait()
        trial.no_strays()
        finish_and_judge(trial)
    trial.redone = watcher.redone
    trial.failures += watcher.wrong(lost)


def frozen(trial: Trial) -> None:
    """SIGSTOP of a worker (on Ray: or of its actor): its work goes to another.

    The run may only say that it stalls if there is no other, or if the worker had no image in hand.
    """
    role = WORKER if trial.engine == LOCAL else trial.draw.choice((WORKER, ACTOR))
    run = trial.start()
    run.until(lambda: bool(of_role(trial, role)))
    if let_work(trial, run) and (found := of_role(trial, role)):
        pid = trial.draw.choice(found)
        trial.kills += processes.kill(pid, signal.SIGSTOP)
        beats = heartbeats(trial.left.run, trial.left.temp, on_ray=trial.engine != LOCAL)
        in_hand = images_in_hand(beats, pid)
        code = run.wait()
        last = run.told().strip().splitlines()[-1] if code else ""
        trial.how = f"{role} with {in_hand}: exit {code} {last[:100]}".strip()
        stalled = code == STALLED and not in_hand and (IDLE if role == WORKER else SILENT) in last
        trial.expect(code == 0 or stalled, f"ended with {code}: {run.told()[-400:]}")
    else:
        run.wait()
    trial.no_strays()
    finish_and_judge(trial)


def orphans(trial: Trial) -> None:
    """SIGKILL of the driver while a worker (on Ray: or its actor) is stopped: it must not stay."""
    role = WORKER if trial.engine == LOCAL else trial.draw.choice((WORKER, ACTOR))
    run = trial.start()
    run.until(lambda: bool(of_role(trial, role)))
    if let_work(trial, run) and (found := of_role(trial, role)):
        processes.kill(trial.draw.choice(found), signal.SIGSTOP)
        trial.kills += run.kill()
        trial.how = role
    else:
        run.wait()
    trial.no_strays()
    finish_and_judge(trial)


def _ended(trial: Trial, run: Driver, number: int) -> float:
    """Send a signal to the driver or its group; seconds until it ended, without those in which it had no CPU."""
    trial.draw.choice((os.kill, os.killpg))(run.pid, number)
    clock, end = Clock(trial.folder), time.monotonic() + LIMIT
    while run.is_running and time.monotonic() < end:
        clock.seconds()
        time.sleep(0.02)
    return clock.seconds()


def signals(trial: Trial) -> None:
    """SIGINT or SIGTERM, to the driver alone or (as a terminal does) to its whole group: it ends within seconds.

    Some are sent twice: the second ends it at once.
    """
    for _ in range(trial.draw.randint(1, 3)):
        first, number = (trial.draw.choice((signal.SIGINT, signal.SIGTERM)) for _ in range(2))
        twice = trial.draw.random() < 0.3
        run = trial.start()
        if not let_work(trial, run):
            run.wait()
            break
        if twice:
            os.kill(run.pid, first)
            run.sleep(trial.draw.uniform(0, 0.5))
        took = _ended(trial, run, number) if run.is_running else 0.0
        code = run.wait(0)
        trial.kills += 1
        trial.how = f"{trial.how} {'twice ' * twice}{signal.Signals(number).name}: {took:.1f} s".strip()
        trial.expect(took < (AT_ONCE if twice else IN_TIME), f"took {took:.1f} s to end after a signal")
        expected = (0, 128 + number, 128 + first) if twice else (0, 128 + number)
        trial.expect(code in expected, f"ended with {code}: {run.told()[-400:]}")
        trial.no_strays()
        trial.failures += verdict.sound_store(trial.left.store)
    finish_and_judge(trial)
