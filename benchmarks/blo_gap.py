"""What a run's BLO-Inst student misses of the images that it was scored on; `fit` tells it of those it learned from."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.data.records import Role
from pipeline.engine.context import TrainContext
from pipeline.engine.runner import read_ontology
from pipeline.engine.status import find_results
from pipeline.engine.streams import RecordStream
from pipeline.engine.units import RecordSet
from pipeline.export import images_root
from students.blo_inst import BloInst
from students.catalog import load_artifact


def judged_in_test(run: Path) -> tuple[float, float]:
    """Of (up to 100 of) a run's val images: the mean loss over their objects, and the share of these that a box found.

    Both as `BloInst.missed` has them.
    """
    (dataset,) = find_results(run, "ingest", part="dataset").values()
    (artifact,) = find_results(run, "train_student").values()
    student = load_artifact(artifact, device="cpu")
    assert isinstance(student, BloInst)
    with TemporaryDirectory(prefix="omnimask-") as folder:
        context = TrainContext(
            device="cpu",
            ontology=read_ontology(dataset / "ontology.json"),
            images_root=images_root(run),
            artifacts={},
            seed=0,
            workdir=Path(folder),
            out=Path(folder),
            progress=lambda *_: None,
            should_stop=lambda: False,
        )
        seen = RecordStream(RecordSet.of_folder(dataset / "records"), frozenset({Role.VAL}), count=0)
        judged = student.missed(replace(seen, count=sum(1 for _ in seen)), context)
        return judged.missed, judged.found
