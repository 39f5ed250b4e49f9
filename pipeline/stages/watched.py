"""How a job that reads many records shows that it is alive: without a sign the engine takes it for stalled."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.data.records import Record
from pipeline.engine.stage import Records, TrainContext
from pipeline.stages.stopping import heed_stop


@dataclass(frozen=True)
class Watched:
    """Records that report each image as they are read, under `note`, and end the job once it is asked to stop.

    Wrap all records, not a choice of them: whoever passes many images over is alive too.
    """

    records: Records
    context: TrainContext
    note: str

    def __iter__(self) -> Iterator[Record]:
        total = len(self.records)
        for done, record in enumerate(self.records):
            heed_stop(self.context)
            self.context.progress(done, total, self.note)
            yield record

    def __len__(self) -> int:
        return len(self.records)
