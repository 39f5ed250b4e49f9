"""Tuning of the class-aware SAM: B-SAM, P-SAM and BP-SAM on cached embeddings (Das et al. 2024, section 3.3).

The artifact: `<variant>.safetensors`, `teacher.json`, `loss.json`; with few masks also `folds/<k>/`, each a teacher
that has not seen the images it lists, for the gate.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from safetensors.torch import load_file

from pipeline.data.records import Record
from pipeline.engine.context import Metrics, Records, Stopped, TrainContext
from teachers.answerer import Answerer
from teachers.embedding_cache import EmbeddingCache
from teachers.fit_head import Bench, HeadTask, HeadTrainer
from teachers.gating import Fold
from teachers.heads import TeacherFile, fill, head_path, new_head, save_head, trained_parameters
from teachers.identity import ModelIdentity
from teachers.self_training import Label, drawn, images_of, surest
from teachers.settings import ClassAwareSettings
from teachers.training_set import Target, TrainingImage, TrainingSet, collect, folds

_GIB = 2**30


@dataclass(frozen=True)
class _Part:
    """One teacher to fit: all of the data (`folder` ".") or a fold's."""

    folder: str
    targets: tuple[Target, ...]
    images: int
    held_out: frozenset[int] = frozenset()
    again: bool = False  # the second round: its heads go on from those of the first


@dataclass
class _Progress:
    """Work done of all parts, for the display: embeddings first, then steps."""

    show: Callable[[int, int, str], None]
    total: int = 0
    done: int = 0
    losses: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def tune(
    data: Records,
    context: TrainContext,
    *,
    settings: ClassAwareSettings,
    answerer: Answerer,
    identity: ModelIdentity,
    labeller: Callable[[Path], Label],
) -> Metrics:
    """Fit every variant on the human-masked records and write the artifact; goes on from `context.workdir`.

    `answerer` brings the frozen SAM, the class vectors (None without the class-aware branch) and which part of an image
    is seen with a box; `identity` is what the heads will fit onto. `labeller(folder)` labels weak images with the heads
    in a folder, for `self_training`. With fewer than two human-masked images, or no mask
    on them, nothing is fitted and `teacher.json` says so. Raises Stopped with all states saved, and BadInput for
    unreadable images.
    """
    training = collect(data)
    if training.use == "zero_shot":
        return _zero_shot(training, context.out, identity)
    parts = _parts(training, context.seed, cross_fit=settings.cross_fit)
    progress = _Progress(context.progress)
    fit = partial(_fit_parts, answerer=answerer, settings=settings, progress=progress)
    fit(parts, training.images, context=context)
    _write_teachers(parts, context.out, settings, identity)
    own = {}
    if settings.self_training and (weak := drawn(data)):
        more = [
            _with_own_masks(
                part,
                weak,
                training=training,
                labeller=labeller,
                share=settings.self_training,
                context=context,
            )
            for part in parts
        ]
        images = (*training.images, *images_of(weak))
        folder = context.workdir / "again"
        folder.mkdir(exist_ok=True)
        fit(more, images, context=replace(context, workdir=folder))
        own = {"own_masks": len(more[0].targets) - len(training.targets)}
    (context.out / "loss.json").write_text(json.dumps(progress.losses) + "\n")
    return {**_metrics(training, progress.losses["."], len(parts) - 1), **own}


def _parts(training: TrainingSet, seed: int, *, cross_fit: bool) -> list[_Part]:
    ids = [image.image_id for image in training.images]
    parts = [_Part(".", training.targets, len(ids))]
    if training.use == "cross_fit" and cross_fit:
        for index, held_out in enumerate(folds(ids, seed)):
            targets = training.without(held_out)
            parts.append(_Part(f"folds/{index}", targets, len(ids) - len(held_out), held_out))
    return parts


def _fit_parts(
    parts: list[_Part],
    images: tuple[TrainingImage, ...],
    *,
    answerer: Answerer,
    settings: ClassAwareSettings,
    context: TrainContext,
    progress: _Progress,
) -> None:
    """Fit every head of all parts on features that are made once."""
    cache = EmbeddingCache(
        answerer.predictor,
        images,
        (
            target.part(variant, answerer.zoom, jitter=settings.box_jitter)
            for target in dict.fromkeys(target for part in parts for target in part.targets)
            for variant in settings.variants
        ),
        dtype=settings.cache_dtype,
        limit_bytes=settings.cache_gb * _GIB,
    )
    before = progress.done
    progress.total += cache.cached + sum(
        len(settings.variants) * settings.steps for part in parts if part.targets
    )
    cache.build(context, lambda done, _: progress.show(before + done, progress.total, "embeddings"))
    progress.done = before + cache.cached
    bench = Bench(
        answerer.predictor, cache, answerer.texts, settings, context.seed, answerer.zoom, context.team
    )
    for part in parts:
        _fit_part(part, bench, context, progress)


def _with_own_masks(
    part: _Part,
    weak: list[Record],
    *,
    training: TrainingSet,
    labeller: Callable[[Path], Label],
    share: float,
    context: TrainContext,
) -> _Part:
    """The part with its teacher's surest `share` of masks of weak images besides."""
    if not part.targets:
        return replace(part, again=True)

    def heed_stop() -> None:
        context.progress(0, 0, f"own masks {part.folder}".removesuffix(" ."))
        if context.should_stop():
            raise Stopped

    own = surest(
        weak,
        labeller(context.out / part.folder),
        root=context.images_root,
        share=share,
        first=len(training.images),
        heed_stop=heed_stop,
    )
    return replace(part, targets=(*part.targets, *own), again=True)


def _fit_part(part: _Part, bench: Bench, context: TrainContext, progress: _Progress) -> None:
    folder = context.out / part.folder
    folder.mkdir(parents=True, exist_ok=True)
    for variant in bench.settings.variants if part.targets else ():
        task = _task(part, variant, bench, folder)
        trainer = HeadTrainer(task, context.workdir / part.folder)
        before = progress.done
        note = f"{variant} {part.folder}".removesuffix(" .")

        def show(done: int, before: int = before, note: str = note) -> None:
            progress.show(before + done, progress.total, note)

        trainer.run(context.should_stop, show)
        progress.done = before + bench.settings.steps
        progress.losses.setdefault(part.folder, {}).setdefault(variant, []).extend(trainer.losses)
        save_head(task.head, folder, variant)


def _task(part: _Part, variant: str, bench: Bench, folder: Path) -> HeadTask:
    name = f"{part.folder}/{variant}" + "/again" * part.again
    width = bench.texts.width if bench.texts else 0
    # The branch starts from the same numbers in every part, so folds differ by their data and draws alone.
    head = new_head(bench.predictor.sam, variant, bench.settings, text_width=width, seed=bench.seed)
    if part.again:
        fill(trained_parameters(head), load_file(head_path(folder, variant)))
    return HeadTask(name, variant, head, part.targets, bench)


def _teacher_file(part: _Part, settings: ClassAwareSettings, identity: ModelIdentity) -> TeacherFile:
    return TeacherFile(
        model=identity,
        zero_shot=not part.targets,
        reason=None if part.targets else "no human mask outside the held-out images",
        variants=settings.variants if part.targets else (),
        images=part.images,
        instances=len(part.targets),
    )


def _write_teachers(
    parts: list[_Part], out: Path, settings: ClassAwareSettings, identity: ModelIdentity
) -> None:
    for part in parts[1:]:
        _teacher_file(part, settings, identity).save(out / part.folder)
    listed = tuple(Fold(path=part.folder, held_out=tuple(sorted(part.held_out))) for part in parts[1:])
    _teacher_file(parts[0], settings, identity).model_copy(update={"folds": listed}).save(out)


def _zero_shot(training: TrainingSet, out: Path, identity: ModelIdentity) -> Metrics:
    images, instances = len(training.images), len(training.targets)
    reason = f"tuning needs masks on 2 or more human-masked images, found {images} with {instances} masks"
    TeacherFile(model=identity, zero_shot=True, reason=reason, images=images, instances=instances).save(out)
    return {"zero_shot": reason, "images": images, "instances": instances}


def _metrics(training: TrainingSet, losses: dict[str, list[float]], n_folds: int) -> Metrics:
    """Counts and, for each variant, the mean loss of the first and the last tenth of its steps."""
    numbers: dict[str, float | int | str | None] = {
        "images": len(training.images),
        "instances": len(training.targets),
        "folds": n_folds,
    }
    for variant, curve in _tenths(losses):
        numbers[f"loss_first_{variant}"], numbers[f"loss_last_{variant}"] = curve
    return numbers


def _tenths(losses: dict[str, list[float]]) -> Iterator[tuple[str, tuple[float, float]]]:
    for variant, values in losses.items():
        tenth = max(1, len(values) // 10)
        yield variant, (sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth)
