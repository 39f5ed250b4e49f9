"""Stage `report`: the run on one page, for a person who looks before reading."""

from collections.abc import Iterator
from types import MappingProxyType

import yaml
from pydantic import Field

from pipeline.data.records import Role
from pipeline.engine.stage import JobStage, Metrics, Records, StageConfig, TrainContext
from pipeline.report import sections
from pipeline.report.blocks import Section
from pipeline.report.calibration import calibration
from pipeline.report.case_documents import CasesFile
from pipeline.report.documents import (
    CalibrationFile,
    CostFile,
    GateFile,
    MetricsFile,
    Quarantined,
    QuarantineFile,
    SummaryFile,
)
from pipeline.report.head import Known, facts, the_run, trust
from pipeline.report.page import Page, render
from pipeline.report.pictures import Budget
from pipeline.report.quality import quality
from pipeline.report.quarantine import quarantine
from pipeline.report.wording import counted
from pipeline.stages.galleries import cases, doubtful, unmatched
from pipeline.stages.watched import Watched

MEGABYTE = 1_000_000


class ReportConfig(StageConfig):
    """How many of the most doubtful masks, and of unmatched points and detections each, are drawn.

    `picture_mb`: all pictures together take no more than this; what is less worth seeing is left out and counted.
    """

    title: str = "omnimask report"
    doubtful: int = Field(12, ge=0, le=100)
    unmatched: int = Field(6, ge=0, le=50)
    picture_mb: float = Field(8.0, ge=0, le=100)


class Report(JobStage):
    """Draws what evaluate, gate, cost and ingest left; whatever did not run is left out."""

    name = "report"
    version = 6
    Config = ReportConfig
    uses = ("dataset",)
    may_use = ("metrics", "cost", "gate", "calibration")
    roles = frozenset({Role.WEAK})
    produces = "report"
    publishes = MappingProxyType({"index.html": "report/index.html"})
    reads_timings = True
    reads_run = True

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, ReportConfig)
        self.config = config

    def run(self, data: Records, context: TrainContext) -> Metrics:
        """Write index.html."""
        folders = context.artifacts
        known = Known(
            SummaryFile.read(folders["dataset"] / "summary.json"),
            MetricsFile.read(folders["metrics"] / "metrics.json") if "metrics" in folders else None,
            CostFile.read(folders["cost"] / "cost.json") if "cost" in folders else None,
            GateFile.read(folders["gate"] / "gate.json") if "gate" in folders else None,
            CalibrationFile.read(folders["calibration"] / "calibration.json")
            if "calibration" in folders
            else None,
        )
        page = Page(
            title=self.config.title,
            subtitle=_subtitle(known.summary, context),
            facts=facts(known, context.timings),
            sections=tuple(self._sections(data, context, known)),
        )
        html = render(page).encode()
        (context.out / "index.html").write_bytes(html)
        return {"bytes": len(html)}

    def _sections(self, data: Records, context: TrainContext, known: Known) -> Iterator[Section]:
        metrics, cost, folders = known.metrics, known.cost, context.artifacts
        budget = Budget(round(self.config.picture_mb * MEGABYTE))
        yield trust(known)
        if cost is not None:
            yield sections.bill(cost)
        if metrics is not None and metrics.pseudo is not None:
            yield quality(metrics.pseudo)
        if known.gate is not None:
            yield sections.gate(known.gate)
        if known.calibration is not None:
            yield calibration(known.calibration)
        if metrics is not None and metrics.students:
            yield sections.students(metrics.students, semantic=metrics.semantic)
        if metrics is not None:
            found = CasesFile.read(folders["metrics"] / "cases.json").cases
            yield cases(found, context, budget)
        yield doubtful(data, context, budget, count=self.config.doubtful)
        lone = unmatched(data, context, budget, count=self.config.unmatched)
        if lone is not None:
            yield lone
        if context.timings:
            yield sections.times(context.timings, cost)
        later = [
            Quarantined(entry=f"image {record.image_id} ({record.uri})", reason=record.dropped)
            for record in Watched(data, context, "quarantine")
            if record.dropped is not None
        ]
        listed = QuarantineFile.read(folders["dataset"] / "quarantine.json")
        yield quarantine(listed, later, known.summary.notes)
        if context.run is not None:
            resolved = yaml.safe_load(context.run.config)
            yield the_run(context.run.config, context.run.versions, source=_source(resolved))


def _subtitle(summary: SummaryFile, context: TrainContext) -> str:
    parts = [
        f"weak labels: {summary.weak}",
        f"seed {context.seed}",
        counted(len(context.ontology.ids), "class", "classes"),
    ]
    if context.run is not None:
        versions = context.run.versions
        about = f"omnimask {versions['omnimask']}" if "omnimask" in versions else ""
        parts = [
            f"run {context.run.name}",
            context.run.day,
            *parts,
            context.device,
            *([about] if about else []),
        ]
    return " · ".join(parts)


def _source(resolved: object) -> str:
    """The kind of data source that a resolved config names."""
    data = resolved.get("data") if isinstance(resolved, dict) else None
    return str(data.get("source")) if isinstance(data, dict) else ""
