"""Stage `report`: the run on one page, for a person who looks before reading."""

from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
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
from pipeline.stages.watched import Watched

UNKNOWN = float("nan")
ESTIMATES = ("quality", "predicted IoU", "stability")


class ReportConfig(StageConfig):
    """How many of the most doubtful pseudo-masks are drawn."""

    title: str = "omnimask report"
    doubtful: int = Field(12, ge=0, le=100)


class Report(JobStage):
    """Draws what evaluate, gate, cost and ingest left; whatever did not run is left out."""

    name = "report"
    version = 3
    Config = ReportConfig
    uses = ("dataset",)
    may_use = ("metrics", "cost", "gate")
    roles = frozenset({Role.WEAK})
    produces = "report"
    publishes = MappingProxyType({"index.html": "report/index.html"})
    reads_timings = True

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
            yield _cases(folders, context)
        if context.timings:
            yield sections.times(context.timings)
        later = [
            Quarantined(entry=f"image {record.image_id} ({record.uri})", reason=record.dropped)
            for record in Watched(data, context, "quarantine")
            if record.dropped is not None
        ]
        if summary.notes:
            yield Section("Notes", tuple(summary.notes))
        yield sections.quarantine(QuarantineFile.read(folders["dataset"] / "quarantine.json"), later)

    def _doubtful(self, data: Records, context: TrainContext) -> Section:
        trust = mask_trust(Watched(data, context, "pseudo-masks"))
        worst = np.argsort(trust, kind="stable")[: self.config.doubtful]  # NaN, no estimate, comes last
        chosen = {int(index): rank for rank, index in enumerate(worst) if not np.isnan(trust[index])}
        strips: dict[int, Strip] = {}
        for index, (record, instance) in enumerate(_pseudo_masks(Watched(data, context, "doubtful masks"))):
            if index in chosen:
                mask = CaseMask.of(instance, instance_name(instance, context.ontology))
                image = read_sample(record, context.images_root).image
                strips[chosen[index]] = doubt_strip(record.uri, image, mask, estimates=_estimates(instance))
        notes = () if strips else ("No pseudo-mask has an estimate of its own quality.",)
        drawn = tuple(strips[rank] for rank in sorted(strips))
        return Section("The most doubtful pseudo-masks first", notes, strips=drawn)


def mask_trust(data: Records) -> npt.NDArray[np.float64]:
    """Trust [n] in (0, 1] in the pseudo-masks of `data` in their order; NaN for one without any estimate.

    The mean, over the estimates that a mask has, of its rank among all masks: the estimates have scales of their own,
    and many masks may share the lowest value of one.
    """
    columns = {name: array("d") for name in ESTIMATES}
    for _, instance in _pseudo_masks(data):
        known = _estimates(instance)
        for name, column in columns.items():
            column.append(known.get(name, UNKNOWN))
    ranks = [_share_below(np.array(column)) for column in columns.values()]
    count = np.sum([~np.isnan(column) for column in ranks], axis=0)
    return np.where(count, np.nansum(ranks, axis=0) / np.maximum(count, 1), UNKNOWN)


def _estimates(instance: Instance) -> dict[str, float]:
    """What is known of a pseudo-mask's quality, each 0..1, by its name for readers."""
    values = (instance.quality, instance.pred_iou, instance.stability)
    return {name: value for name, value in zip(ESTIMATES, values, strict=True) if value is not None}


def _share_below(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Share of the known values that are not above each; equal values share their mean rank, NaN stays."""
    from scipy.stats import rankdata  # imported late: it takes long, and every command looks at the stages

    ranks = np.full(len(values), UNKNOWN)
    known = ~np.isnan(values)
    ranks[known] = rankdata(values[known]) / max(int(known.sum()), 1)
    return ranks


def _pseudo_masks(data: Records) -> Iterator[tuple[Record, Instance]]:
    """Every kept pseudo-mask with its record."""
    for record in data:
        for instance in record.instances if record.dropped is None else ():
            if instance.source is Source.TEACHER and instance.dropped is None and instance.rle is not None:
                yield record, instance


def _cases(folders: Mapping[str, Path], context: TrainContext) -> Section:
    cases = CasesFile.read(folders["metrics"] / "cases.json").cases
    strips: list[Strip] = []
    for done, case in enumerate(cases, start=1):
        strips.append(case_strip(case, context.images_root))
        context.progress(done, len(cases), "cases drawn")
    notes = () if strips else ("There was no hidden truth to compare with.",)
    return Section("Truth, pseudo-masks and students", notes, strips=tuple(strips))
