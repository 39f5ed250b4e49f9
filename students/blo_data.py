"""What BLO-Inst learns from: two disjoint halves of the images, seen whole, with the features that SAM has of them.

Legend: B images of S x S pixels, C x g x g their features, G objects of one, low-res masks of 4g x 4g.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.data.errors import BadInput
from students.blo_objective import Images
from teachers.embedding_cache import EmbeddingCache
from teachers.fit_detector import detector_targets, square_pixels
from teachers.pool import Halves, Loader, Part, Pool
from teachers.targets import Batch, collate, labels_of, low_res_masks

_SPLIT, _UPPER = 2, 3  # streams of random numbers, beside the loader's two


def halves(
    pool: Pool, share: float, seed: int, class_index: Mapping[int, int], *, apart: bool = True
) -> Halves:
    """A random split, `share` of the images to the lower half, SAM's; the upper one is the detector's.

    `apart`: steps draw from each half; BadInput unless each has an object. Else they draw from all images and a half is
    what is judged: where one has no object, both are all images; BadInput if these have none.
    """
    order = np.random.default_rng([seed, _SPLIT]).permutation(len(pool)).tolist()
    if apart and len(order) < 2:
        raise BadInput(f"blo_inst: expected 2 images or more, one for each level; found {len(order)}")
    count = min(max(round(share * len(order)), 1), len(order) - 1)
    found = Halves(tuple(sorted(order[:count])), tuple(sorted(order[count:])))
    every = tuple(range(len(order)))
    named = [("SAM's", found.lower), ("the detector's", found.upper)] if apart else [("the", every)]
    for name, places in named:
        if not _has_object(pool, places, class_index):
            where = f" (split {share:g}, seed {seed})" if apart else ""
            raise BadInput(
                f"blo_inst: none of {name} {len(places)} images has an object{where}; "
                f"expected one at least: more images with masks{', or another seed' if apart else ''}"
            )
    judged = all(_has_object(pool, places, class_index) for places in (found.lower, found.upper))
    return found if judged else Halves(every, every)


def _has_object(pool: Pool, places: Sequence[int], class_index: Mapping[int, int]) -> bool:
    return any(labels_of(pool[place], class_index).found for place in places)


@dataclass(frozen=True)
class Side:
    """Batches of one half, by step: pixels, cached features and objects."""

    loader: Loader
    places: tuple[int, ...]
    cache: EmbeddingCache
    device: str

    @classmethod
    def of(
        cls,
        whole: Loader,
        places: tuple[int, ...],
        cache: EmbeddingCache,
        *,
        device: str,
        upper: bool = False,
    ) -> "Side":
        """Of a loader of the whole pool; an `upper` one draws its images in another order than a lower one as long."""
        order = _UPPER if upper else whole.order
        return cls(replace(whole, pool=Part(whole.pool, places), order=order), places, cache, device)

    def batches(self, first: int, last: int, *, threads: int) -> Generator[Images]:
        """Those of the steps [first, last)."""
        drawn = self.loader.batches(first, last, threads=threads)
        for step, batch in zip(range(first, last), drawn, strict=True):
            own = self.loader.indices(step)[self.loader.team.share(self.loader.batch)]
            yield self._images(batch.to(self.device), [self.places[index] for index in own])

    def in_order(self) -> Iterator[Images]:
        """All of them once, a batch at a time."""
        for start in range(0, len(self.places), self.loader.batch):
            some = range(start, min(start + self.loader.batch, len(self.places)))
            examples = [self.loader.example(0, 0, self.loader.pool[index]) for index in some]
            yield self._images(collate(examples).to(self.device), [self.places[index] for index in some])

    def _images(self, batch: Batch, places: list[int]) -> Images:
        seen = self.cache.gather([(place, None) for place in places])
        features = seen.features
        side = 4 * features.shape[-1]
        low = low_res_masks(batch.masks, side)
        return Images(
            square_pixels(batch),
            features,
            detector_targets(batch),
            tuple(torch.split(low, list(batch.counts))),
            torch.tensor([frame.input_size[::-1] for frame in seen.frames], device=features.device),
        )
