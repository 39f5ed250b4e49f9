"""Stage `cost`: the annotation bill of this run beside each other kind of label and full masks (methods 3.7)."""

from collections import Counter
from dataclasses import replace
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.data.cost import PRESETS, CostModel, Units, measure
from pipeline.data.records import Role, WeakKind
from pipeline.data.weak import parse_kind
from pipeline.engine.stage import JobStage, Metrics, Records, StageConfig, TrainContext
from pipeline.report.bill import THIS_RUN, bill_text, make_bill
from pipeline.report.documents import SummaryFile
from pipeline.stages.counts import human_counts, kind_of


class UnitSeconds(BaseModel):
    """Seconds of single acts that differ from the published ones; an instruction's has no published value."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    tag: float | None = Field(default=None, ge=0)
    first_point: float | None = Field(default=None, ge=0)
    next_point: float | None = Field(default=None, ge=0)
    box: float | None = Field(default=None, ge=0)
    mask: float | None = Field(default=None, ge=0)
    instruction: float | None = Field(default=None, ge=0)

    def over(self, base: Units) -> Units:
        """`base` with the values given here."""
        return replace(base, **self.model_dump(exclude_none=True))


class CostConfig(StageConfig):
    """`preset`: K, n and c of a published data set; unset: counted on this run's labels. `hourly_rate`: money."""

    preset: str | None = None
    hourly_rate: float | None = Field(None, ge=0)
    units: UnitSeconds = Field(default_factory=UnitSeconds)

    @field_validator("preset")
    @classmethod
    def _preset_exists(cls, preset: str | None) -> str | None:
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"expected one of {', '.join(PRESETS)}")
        return preset


class Cost(JobStage):
    """Writes cost.json and the same as a table, cost.txt."""

    name = "cost"
    version = 1
    Config = CostConfig
    roles = frozenset(Role) - {Role.VAL}
    uses = ("dataset",)
    produces = "cost"
    publishes = MappingProxyType({"cost.json": "cost.json", "cost.txt": "cost.txt"})
    reads_timings = True

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, CostConfig)
        self.config = config

    def run(self, data: Records, context: TrainContext) -> Metrics:
        """Count and price; without a label to count n and c on, the bill has no prices and says why."""
        kind = parse_kind(SummaryFile.read(context.artifacts["dataset"] / "summary.json").weak)
        masked, weak = 0, Counter[WeakKind]()
        for record in data:
            if record.role is Role.WEAK:
                weak[kind_of(record, kind)] += 1
            else:
                masked += 1
        model = self._model(data, kind, classes=len(context.ontology.ids))
        bill = make_bill(
            model,
            masked=masked,
            weak=weak,
            hourly_rate=self.config.hourly_rate,
            machine_seconds=context.timings,
            basis=f"published: {self.config.preset}" if self.config.preset else None,
        )
        bill.write(context.out / "cost.json")
        (context.out / "cost.txt").write_text(bill_text(bill), encoding="utf-8")
        run = next(row for row in bill.rows if row.kind == THIS_RUN)
        return {"hours": run.hours, "saving": run.saving}

    def _model(self, data: Records, kind: WeakKind, *, classes: int) -> CostModel | None:
        if self.config.preset is not None:
            base = PRESETS[self.config.preset]
            return replace(base, units=self.config.units.over(base.units))
        units = self.config.units.over(Units())
        counted = measure(human_counts(data, kind), classes=classes, units=units)
        return counted or measure((r for r in data if r.dropped is None), classes=classes, units=units)
