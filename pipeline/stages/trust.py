"""How far single pseudo-masks can be trusted: the estimates that they carry, and what truth says of these."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from pipeline.data.matching import Key, Pair
from pipeline.data.records import Instance, Record, Source
from pipeline.engine.stage import Records
from pipeline.report.documents import IOU_BINS, Reliability, ReliabilityBin

UNKNOWN = float("nan")
QUALITY = "quality"
ESTIMATES = (QUALITY, "predicted IoU", "stability")
SCORE = "score"  # what trainers see; no estimate of quality alone, as a proposal's confidence may be in it
BINS = 10

Floats = npt.NDArray[np.float64]


def estimates(instance: Instance) -> dict[str, float]:
    """What is known of a pseudo-mask's quality, each 0..1, by its name for readers."""
    values = (instance.quality, instance.pred_iou, instance.stability)
    return {name: value for name, value in zip(ESTIMATES, values, strict=True) if value is not None}


def pseudo_masks(data: Iterable[Record]) -> Iterator[tuple[Record, Instance]]:
    """Every kept pseudo-mask with its record."""
    for record in data:
        for instance in record.instances if record.dropped is None else ():
            if instance.source is Source.TEACHER and instance.dropped is None and instance.rle is not None:
                yield record, instance


def mask_trust(data: Records) -> Floats:
    """Trust [n] in [0, 1] in the pseudo-masks of `data` in their order; NaN for one without any estimate.

    Its calibrated quality if every mask has one. Else the mean, over the estimates that a mask has, of its rank among
    all masks: the estimates have scales of their own, and many masks may share the lowest value of one.
    """
    columns = {name: array("d") for name in ESTIMATES}
    for _, instance in pseudo_masks(data):
        known = estimates(instance)
        for name, column in columns.items():
            column.append(known.get(name, UNKNOWN))
    quality = np.array(columns[QUALITY])
    if len(quality) and not np.isnan(quality).any():
        return quality
    ranks = [_share_below(np.array(column)) for column in columns.values()]
    count = np.sum([~np.isnan(column) for column in ranks], axis=0)
    return np.where(count, np.nansum(ranks, axis=0) / np.maximum(count, 1), UNKNOWN)


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share their mean rank."""
    from scipy.stats import rankdata  # imported late: it takes long, and every command looks at the stages

    ranks: Floats = rankdata(values)
    return ranks


def _share_below(values: Floats) -> Floats:
    """Share of the known values that are not above each; equal values share their mean rank, NaN stays."""
    ranks = np.full(len(values), UNKNOWN)
    known = ~np.isnan(values)
    ranks[known] = _ranks(values[known]) / max(int(known.sum()), 1)
    return ranks


class Spread:
    """Fills, image by image (`matched_miou`'s `each`), with how the IoUs spread and what the estimates said of them."""

    def __init__(self) -> None:
        self.objects: Counter[Key] = Counter()
        self.missed: Counter[Key] = Counter()
        self.masks_by_origin: Counter[str] = Counter()
        self.iou_counts = [0] * IOU_BINS
        # 16 bytes a mask and estimate: the masks themselves are let go.
        self._said = {name: array("d") for name in (*ESTIMATES, SCORE)}
        self._true = {name: array("d") for name in (*ESTIMATES, SCORE)}

    def __call__(self, pairs: list[Pair], false: list[Instance]) -> None:
        """One image's pairs and false positives."""
        for pair in pairs:
            self.objects[pair.key] += 1
            if pair.pseudo is None:
                self.missed[pair.key] += 1
                continue
            self.iou_counts[min(int(pair.iou * IOU_BINS), IOU_BINS - 1)] += 1
            if pair.pseudo.prompt is not None:
                self.masks_by_origin[pair.pseudo.prompt.origin.value] += 1
            self._compare(pair.pseudo, pair.iou)
        for instance in false:
            self._compare(instance, 0.0)

    def _compare(self, instance: Instance, iou: float) -> None:
        known = estimates(instance)
        if instance.score is not None:
            known[SCORE] = instance.score
        for name, value in known.items():
            self._said[name].append(value)
            self._true[name].append(iou)

    def reliability(self) -> Mapping[str, Reliability]:
        """Of every estimate that some mask has."""
        return {
            name: reliability(np.array(said), np.array(self._true[name]))
            for name, said in self._said.items()
            if said
        }


def reliability(said: Floats, true: Floats) -> Reliability:
    """What estimates [n] were worth beside the IoUs [n] of the same masks; n is at least 1."""
    number = np.minimum((said * BINS).astype(int), BINS - 1)
    bins = [
        ReliabilityBin(
            low=index / BINS,
            high=(index + 1) / BINS,
            masks=int(inside.sum()),
            estimate=float(said[inside].mean()),
            iou=float(true[inside].mean()),
        )
        for index in range(BINS)
        if (inside := number == index).any()
    ]
    return Reliability(
        masks=len(said),
        estimate=float(said.mean()),
        iou=float(true.mean()),
        error=sum(b.masks * abs(b.estimate - b.iou) for b in bins) / len(said),
        correlation=_spearman(said, true),
        bins=bins,
    )


def _spearman(one: Floats, other: Floats) -> float | None:
    first, second = _ranks(one), _ranks(other)
    if first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])
