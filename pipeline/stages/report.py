"""Stage `report`: the run on one page, for a person who looks before reading."""

import heapq
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import Field

from pipeline.data.records import Instance, Record, Role, Source
from pipeline.engine.stage import JobStage, Metrics, Records, StageConfig, TrainContext
from pipeline.report import sections
from pipeline.report.documents import (
    CaseMask,
    CasesFile,
    CostFile,
    GateFile,
    MetricsFile,
    Quarantined,
    QuarantineFile,
    SummaryFile,
)
from pipeline.report.page import Page, Section, Strip, render
from pipeline.report.pictures import case_strip, doubt_strip
from pipeline.stages.cases import instance_name
from pipeline.stages.samples import read_sample


class ReportConfig(StageConfig):
    """How many of the most doubtful pseudo-masks are drawn."""

    title: str = "omnimask report"
    doubtful: int = Field(12, ge=0, le=100)


class Report(JobStage):
    """Draws what evaluate, gate, cost and ingest left; whatever did not run is left out."""

    name = "report"
    version = 1
    Config = ReportConfig
    uses = ("dataset",)
    may_use = ("metrics", "cost", "gate")
    roles = frozenset({Role.WEAK})
    produces = "report"
    publishes = MappingProxyType({"index.html": "report/index.html"})

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, ReportConfig)
        self.config = config

    def run(self, data: Records, context: TrainContext) -> Metrics:
        """Write index.html."""
        folders = context.artifacts
        summary = SummaryFile.read(folders["dataset"] / "summary.json")
        metrics = MetricsFile.read(folders["metrics"] / "metrics.json") if "metrics" in folders else None
        cost = CostFile.read(folders["cost"] / "cost.json") if "cost" in folders else None
        page = Page(
            title=self.config.title,
            subtitle=f"weak labels: {summary.weak}, seed {context.seed}, {len(context.ontology.ids)} classes",
            facts=sections.facts(summary, metrics, cost),
            sections=tuple(self._sections(data, context, summary=summary, metrics=metrics, cost=cost)),
        )
        html = render(page)
        (context.out / "index.html").write_text(html, encoding="utf-8")
        return {"bytes": len(html.encode())}

    def _sections(
        self,
        data: Records,
        context: TrainContext,
        *,
        summary: SummaryFile,
        metrics: MetricsFile | None,
        cost: CostFile | None,
    ) -> Iterator[Section]:
        folders = context.artifacts
        if metrics is not None and metrics.pseudo is not None:
            yield sections.quality(metrics.pseudo)
        if metrics is not None and metrics.students:
            yield sections.students(metrics.students, semantic=metrics.semantic)
        if cost is not None:
            yield sections.bill(cost)
        if "gate" in folders:
            yield sections.gate(GateFile.read(folders["gate"] / "gate.json"))
        yield self._doubtful(data, context)
        if metrics is not None:
            yield _cases(folders, context.images_root)
        if context.timings:
            yield sections.times(context.timings)
        later = [
            Quarantined(entry=f"image {record.image_id} ({record.uri})", reason=record.dropped)
            for record in data
            if record.dropped is not None
        ]
        if summary.notes:
            yield Section("Notes", tuple(summary.notes))
        yield sections.quarantine(QuarantineFile.read(folders["dataset"] / "quarantine.json"), later)

    def _doubtful(self, data: Records, context: TrainContext) -> Section:
        found = heapq.nsmallest(self.config.doubtful, _trust(data), key=lambda item: item[:3])
        strips = []
        for trust, _, _, record, instance in found:
            mask = CaseMask.of(instance, instance_name(instance, context.ontology))
            image = read_sample(record, context.images_root).image
            strips.append(doubt_strip(record.uri, image, mask, trust=trust))
        notes = () if strips else ("No pseudo-mask has an estimate of its own quality.",)
        return Section("The most doubtful pseudo-masks first", notes, strips=tuple(strips))


def _trust(data: Records) -> Iterator[tuple[float, int, int, Record, Instance]]:
    """(lowest of the mask's own estimates, image id, rank, record, instance) of every kept pseudo-mask."""
    for record in data:
        if record.dropped is not None:
            continue
        for rank, instance in enumerate(record.instances):
            known = [v for v in (instance.quality, instance.pred_iou, instance.stability) if v is not None]
            kept = instance.source is Source.TEACHER and instance.dropped is None and instance.rle is not None
            if kept and known:
                yield min(known), record.image_id, rank, record, instance


def _cases(folders: Mapping[str, Path], images_root: Path) -> Section:
    cases = CasesFile.read(folders["metrics"] / "cases.json").cases
    strips: list[Strip] = [case_strip(case, images_root) for case in cases]
    notes = () if strips else ("There was no hidden truth to compare with.",)
    return Section("Truth, pseudo-masks and students", notes, strips=tuple(strips))
