"""Stage `filter`: pseudo-masks that look wrong are set aside with a reason; they stay in the record.

The default preset is the paper's: after prompting nothing is dropped. To students what is set aside is an ignore
region. After a stage `calibrate` every pseudo-mask gets its quality, the IoU that it can be expected to have.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from pipeline.data.calibration import LEAST_MASKS
from pipeline.data.errors import BadInput
from pipeline.data.masks import area, decode
from pipeline.data.precision import CONFIDENCE, best_promise, cut_for, cuts
from pipeline.data.records import Instance, Record, Role, Source
from pipeline.engine.stage import MapConfig, MapStage, StageConfig, WorkerContext
from pipeline.report.documents import CalibrationFile


class FilterConfig(MapConfig):
    """What a pseudo-mask must reach; unset limits drop nothing. Area in pixels.

    `min_quality`: expected IoU. `precision`: as many masks are kept as the masks of `calibrate` let it promise,
    with the `confidence`, that at least that share of them is right (IoU 0.5; `pipeline.data.precision`). Without a
    `preset` it is `custom` where there is a limit.
    """

    preset: Literal["paper", "custom"] | None = None
    min_score: float | None = Field(None, ge=0, le=1)
    min_stability: float | None = Field(None, ge=0, le=1)
    min_quality: float | None = Field(None, ge=0, le=1)
    precision: float | None = Field(None, gt=0, lt=1)
    confidence: float = Field(CONFIDENCE, ge=0.5, lt=1)
    min_area: int | None = Field(None, ge=1)
    point_inside: bool = False
    unit_size: int = Field(4096, ge=1)
    batch_size: int = Field(256, ge=1)

    @model_validator(mode="after")
    def _limits_have_an_effect(self) -> Self:
        limits = (self.min_score, self.min_stability, self.min_area, self.min_quality, self.precision)
        if self.preset == "paper" and (any(v is not None for v in limits) or self.point_inside):
            raise ValueError("preset 'paper' drops nothing after prompting; limits need `preset: custom`")
        if self.precision is None and self.confidence != CONFIDENCE:
            raise ValueError("confidence is of a precision, found none")
        return self


class Filter(MapStage[Record]):
    """Sets `dropped` and, after `calibrate`, `quality` on teacher instances; touches nothing else."""

    name = "filter"
    version = 3
    Config = FilterConfig
    needs = frozenset({"instances"})
    adds = frozenset({"instances"})
    roles = frozenset({Role.WEAK})
    may_use = ("calibration",)

    found: CalibrationFile | None = None

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, FilterConfig)
        self.config = config

    def setup(self, context: WorkerContext) -> None:
        """Read the calibration, if there is one; BadInput where it does not allow what the settings ask for."""
        folder = context.artifacts.get("calibration")
        self.found = None if folder is None else CalibrationFile.read(folder / "calibration.json")
        self.config = self.config.model_copy(update={"min_quality": least_quality(self.config, self.found)})

    def load(self, record: Record) -> Record:
        """No pixels are needed."""
        return record

    def blank(self, record: Record) -> Record:
        """The record itself: nothing is read."""
        return record

    def __call__(self, batch: Sequence[Record]) -> list[Record]:
        return [replace(record, instances=tuple(map(self._judge, record.instances))) for record in batch]

    def _judge(self, instance: Instance) -> Instance:
        if instance.source is not Source.TEACHER or instance.dropped is not None:
            return instance
        if self.found is not None and self.found.calibrator is not None and is_known(instance, self.found):
            instance = replace(instance, quality=self.found.calibrator.quality(instance))
        reason = reason_to_drop(instance, self.config)
        return instance if reason is None else replace(instance, dropped=reason)


def is_known(instance: Instance, found: CalibrationFile) -> bool:
    """Whether masks like this were calibrated: made by this run, from a kind of label that was seen often enough."""
    kind = instance.weak_kind
    made_here = instance.rle is not None and instance.prompt is not None
    return made_here and kind is not None and found.kinds.get(kind.value, 0) >= LEAST_MASKS


def least_quality(config: FilterConfig, found: CalibrationFile | None) -> float | None:
    """The quality that a mask must reach by `min_quality` and `precision`; None where neither asks for one.

    BadInput where there is no calibration, or no masks of it are right often enough.
    """
    if config.min_quality is None and config.precision is None:
        return None
    if found is None or found.calibrator is None:
        why = "no stage `calibrate` ran" if found is None else found.why
        raise BadInput(f"filter: quality and precision need calibrated masks: {why}")
    limits = [limit for limit in (config.min_quality,) if limit is not None]
    if config.precision is not None:
        limits.append(_quality_of(config.precision, config.confidence, found))
    return max(limits)


def _quality_of(precision: float, confidence: float, found: CalibrationFile) -> float:
    compared = np.array(found.said), np.array(found.true), np.array(found.image_ids)
    tried = cuts(*compared, confidence=confidence)
    cut = cut_for(precision, tried)
    if cut is not None:
        return cut.quality
    best = best_promise(tried)
    most = (
        "nothing can be" if best is None else
        f"the most is {best.sure:.3f}, for the {best.kept:.0%} of quality {best.quality:.3f} or more"
    )  # fmt: skip
    on = f"{found.masks} masks of {found.images} images"
    raise BadInput(
        f"filter.precision: {precision:g} cannot be promised with confidence {confidence:g} on {on}; {most}"
    )


def reason_to_drop(instance: Instance, config: FilterConfig) -> str | None:
    """The first limit that a pseudo-mask misses, in words; None if it stays.

    An unknown number misses no limit, but an unknown quality does: nothing could be promised.
    """
    if config.min_quality is not None and instance.quality is None and instance.rle is not None:
        return "no calibrated quality: too few masks like it were calibrated"
    checks = (
        ("score", instance.score, config.min_score),
        ("stability", instance.stability, config.min_stability),
        ("quality", instance.quality, config.min_quality),
        ("area", None if instance.rle is None else float(area(instance.rle)), config.min_area),
    )
    for name, value, limit in checks:
        if value is not None and limit is not None and value < limit:
            return f"{name} {value:.4g} below {limit:.4g}"
    if config.point_inside and _misses_point(instance):
        return "a positive point lies outside the mask"
    return None


def _misses_point(instance: Instance) -> bool:
    if instance.rle is None:
        return False
    height, width = instance.rle.size
    clicks = [point for point in instance.points if point.label == 1]
    if not clicks:
        return False
    mask = decode(instance.rle)
    # Pixel i covers [i, i+1); a click on the far edge belongs to the last pixel.
    return not all(mask[min(int(p.y), height - 1), min(int(p.x), width - 1)] for p in clicks)
