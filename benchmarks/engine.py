"""What the engines add to the work itself, and what a large manifest asks of the driver.

    python -m benchmarks.engine                       (four minutes)
    python -m benchmarks.engine --images=1000000      (also that many images through a stage that does nothing)

A stage that sleeps 50 ms an image: its wall time from the first call to its end, over the sum of the sleeps shared by
the workers, on the local engine and on Ray with 1 and 2 workers; the start-up before the first call stands apart.
`commits` is the share of the workers' time that commits take, `between` that of all there is between two calls (commit,
read, hand over). Then manifests of 1,000 images and more: seconds to plan and to resume, and the driver's peak memory;
and the same of as many listed photos of one byte, which a driver checks and digests before ingest.
Prints one JSON line; exits 1 unless the ratios are at most 1.03 and 1.08, commits at most 0.01, and every driver below
500 MB and, besides the reading of photos, 60 s for up to a million images.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks import timing
from benchmarks.engine_stages import Manifest, ManifestConfig, Sleep, SleepConfig
from pipeline.config import Request, load_plan
from pipeline.engine.display import Silent
from pipeline.engine.drive import Options, drive
from pipeline.engine.plan import PlannedStage, RunPlan
from pipeline.engine.stage import JobStage, Resources

DELAY = 0.05  # seconds an image
IMAGES, UNIT, BATCH = 1600, 25, 5
LIMITS = {"local": 1.03, "ray": 1.08}
COMMITS = 0.01
DRIVER_MB, DRIVER_SECONDS = 500, 60.0


class Clock(Silent):
    """Knows when each stage ended."""

    def __init__(self) -> None:
        self.ended: dict[str, float] = {}
        self.began: dict[str, float] = {}

    def begin(self, label: str, *, units: int, reused: int, images: int) -> None:  # noqa: ARG002
        self.began[label] = time.time()

    def end(self, label: str, *, seconds: float, images: int) -> None:  # noqa: ARG002
        self.ended[label] = time.time()


def plan_of(manifest: ManifestConfig, sleep: SleepConfig, workers: int = 1) -> RunPlan:
    """A run of two stages."""
    resources = Resources(cpus=1.0, workers=(workers, workers))
    stages = (
        PlannedStage("ingest", Manifest, manifest, Resources()),
        PlannedStage("sleep", Sleep, sleep, resources),
    )
    return RunPlan(
        name="engine",
        seed=0,
        device="cpu",
        torch_threads=1,
        max_bad=0.0,
        stall_timeout=600.0,
        image_timeout=600.0,
        stages=stages,
        data_root=Path(),
        images=None,
        resolved={"sleep": sleep.delay, "images": manifest.images, "log": sleep.log},
    )


def measure(engine: str, workers: int) -> dict[str, timing.Json]:
    """One run of the sleeping stage with an empty store."""
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name) / "calls"
        log.mkdir()
        sleep = SleepConfig(unit_size=UNIT, batch_size=BATCH, delay=DELAY, log=str(log))
        clock, start = Clock(), time.time()
        plan = plan_of(ManifestConfig(images=IMAGES), sleep, workers)
        drive(plan, Options(folder / "run", folder / "store", engine=engine), clock)
        calls, commits = (
            sorted(json.loads(path.read_text()) for path in log.glob(f"*.{kind}"))
            for kind in ("call", "commit")
        )
    first = min(call[1] for call in calls)
    wall = clock.ended["sleep"] - first
    gaps = sum(after[1] - call[2] for call, after in pairwise(calls) if after[0] == call[0])
    return {
        "start_up_s": timing.round3(first - start),
        "wall_s": timing.round3(wall),
        "ratio": timing.round3(wall / (IMAGES * DELAY / workers)),
        "commits": float(f"{sum(end - begin for _, begin, end in commits) / (wall * workers):.2g}"),
        "between": float(f"{gaps / (wall * workers):.2g}"),
    }


def manifest(images: int) -> dict[str, timing.Json]:
    """A manifest of that many images through a stage that does nothing, then again, each by a driver of its own."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", __spec__.name, "--drive", name, str(images)]
        made, again = (
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(2)
        )
    return {"made": made, "again": again}


def drive_manifest(folder: Path, images: int) -> None:
    """What a driver of `manifest` does: prints seconds to plan (first unit handed out), in all, and peak MB."""
    clock, start = Clock(), time.time()
    plan = plan_of(ManifestConfig(images=images), SleepConfig(unit_size=64, batch_size=64))
    drive(plan, Options(folder / "run", folder / "store"), clock)
    seconds = {
        "ingest_s": timing.round3(clock.ended["ingest"] - start),
        "plan_s": timing.round3(clock.began["sleep"] - clock.ended["ingest"]),
        "stage_s": timing.round3(clock.ended["sleep"] - clock.ended["ingest"]),
    }
    print(json.dumps({**seconds, "driver_mb": peak_mb()}))


def listed(images: int) -> dict[str, timing.Json]:
    """A COCO file that lists so many photos of one byte, checked and digested as every run does, by each `verify`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        with (folder / "train.json").open("w") as file:
            file.write('{"categories": [{"id": 1, "name": "disc"}], "annotations": [], "images": [')
            for number in range(images):
                photo = {"id": number, "file_name": f"{number:07}.jpg", "width": 640, "height": 480}
                (folder / "images" / f"{number:07}.jpg").write_bytes(b"x")
                file.write(("," if number else "") + json.dumps(photo))
            file.write("]}")
        command = [sys.executable, "-m", __spec__.name, "--list", name]
        return {
            verify: json.loads(
                subprocess.run([*command, verify], check=True, capture_output=True, text=True).stdout
            )
            for verify in ("bytes", "stat")
        }


def list_photos(folder: Path, verify: str) -> None:
    """What a driver does before ingest: prints seconds to check the config with its files, to digest, and peak MB."""
    data = {"source": "coco", "json": "train.json", "images": "images"}
    config = {"name": "listed", "data": data, "weak": "none", "masks": "0%", "verify": verify}
    (folder / "run.yaml").write_text(json.dumps({**config, "stages": [{"export": {}}]}))
    start = time.time()
    plan = load_plan(Request(folder / "run.yaml", data_root=folder))
    checked = time.time()
    ingest = plan.stages[0].build()
    assert isinstance(ingest, JobStage)
    ingest.identity(folder)
    seconds = {"check_s": timing.round3(checked - start), "digest_s": timing.round3(time.time() - checked)}
    print(json.dumps({**seconds, "driver_mb": peak_mb()}))


def peak_mb() -> int:
    """The most memory that this process had so far."""
    return round(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1000)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="*", default=[1_000, 10_000], help="sizes of manifests")
    parser.add_argument("--drive", nargs=2, metavar=("FOLDER", "IMAGES"), help=argparse.SUPPRESS)
    parser.add_argument("--list", nargs=2, metavar=("FOLDER", "VERIFY"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.drive:
        drive_manifest(Path(given.drive[0]), int(given.drive[1]))
        return 0
    if given.list:
        list_photos(Path(given.list[0]), given.list[1])
        return 0
    runs = {f"{engine} {n}": measure(engine, n) for engine, n in (("local", 1), ("ray", 1), ("ray", 2))}
    sizes = {str(images): manifest(images) for images in given.images}
    photos = {str(images): listed(images) for images in given.images}
    checks = {
        f"{name} at most {LIMITS[name.split()[0]]}": run["ratio"] <= LIMITS[name.split()[0]]
        for name, run in runs.items()
    }
    checks["commits at most 1% of the time"] = all(run["commits"] <= COMMITS for run in runs.values())
    for images, both in sizes.items():
        checks[f"{images} images: driver below {DRIVER_MB} MB"] = all(
            run["driver_mb"] < DRIVER_MB for run in both.values()
        )
        checks[f"{images} images: planned and resumed within {DRIVER_SECONDS:g} s"] = (
            both["made"]["plan_s"] + both["again"]["stage_s"] <= DRIVER_SECONDS
        )
    for images, ways in photos.items():
        for verify, told in ways.items():
            what = f"{images} photos, verify: {verify}"
            checks[f"{what}: driver below {DRIVER_MB} MB"] = told["driver_mb"] < DRIVER_MB
            if verify == "stat":  # the other way reads every photo, which takes as long as the disk does
                checks[f"{what}: within {DRIVER_SECONDS:g} s"] = (
                    told["check_s"] + told["digest_s"] <= DRIVER_SECONDS
                )
    found = {"images": IMAGES, "delay": DELAY, **runs, "manifests": sizes, "photos": photos}
    return timing.finish("engine", found, checks)


if __name__ == "__main__":
    sys.exit(main())
