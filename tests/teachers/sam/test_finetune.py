"""Tuning: it learns, it goes on after a kill with the same bits, it writes only what it trained, it folds few masks."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file
from segment_anything.modeling import Sam

from pipeline.data.errors import BadInput
from pipeline.data.masks import decode, encode
from pipeline.data.records import (
    Category,
    Instance,
    Ontology,
    Origin,
    Prompt,
    Record,
    Role,
    Source,
    WeakKind,
)
from pipeline.data.weak import simulate
from pipeline.engine.context import Metrics, Stopped, TrainContext
from teachers.answerer import Answerer
from teachers.class_texts import ClassTexts
from teachers.embedding_cache import EmbeddingCache
from teachers.fit_head import Bench, HeadTask, HeadTrainer, batch_loss, batch_targets
from teachers.heads import load_head, read_teacher
from teachers.identity import ModelIdentity
from teachers.protocols import Sample
from teachers.sam.predictor import Ask, Embeddings, Head, SamPredictor
from teachers.sam.zoom import Part, Zoom
from teachers.sam_teacher import SamTeacher
from teachers.self_training import certainty, surest
from teachers.settings import ClassAwareSettings
from teachers.training_set import collect

ONTOLOGY = Ontology((Category(3, "disc"), Category(8, "bar")))
SETTINGS = ClassAwareSettings(steps=8, lr=1e-3, batch_size=3, points=64, checkpoint_every=3)

NO_ZOOM = Zoom(0.0, 64)
IDENTITY = ModelIdentity(sam="tiny", sam_sha256="0" * 64, class_aware=True, zoom=0.0)


class TwoNames:
    """A text tower of four numbers a name."""

    def encode(self, names: list[str]) -> np.ndarray:
        return np.array([[len(name), name.count("a"), 1.0, -1.0] for name in names], np.float32) / 4


@dataclass(frozen=True)
class Listed:
    """Records as a job sees them."""

    records: tuple[Record, ...]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


def scene(image_id: int, root: Path, *, role: Role = Role.HUMAN_MASKED) -> Record:
    """A bright disc and a dark bar on grey, 48 x 64."""
    rng = np.random.default_rng(image_id)
    y, x = np.mgrid[:48, :64]
    cx, cy = rng.integers(15, 50), rng.integers(15, 30)
    disc = (x - cx) ** 2 + (y - cy) ** 2 < 80
    bar = (abs(y - 40) < 4) & (abs(x - cx) < 12)
    pixels = np.full((48, 64, 3), 120, np.uint8)
    pixels[disc], pixels[bar] = 220, 30
    photo = root / f"{image_id}.png"
    Image.fromarray(pixels).save(photo)
    digest = hashlib.sha256(photo.read_bytes()).hexdigest()
    things = [(3, disc), (8, bar)]
    instances = [
        Instance(Source.HUMAN, class_id, rle=encode(mask), human_id=i)
        for i, (class_id, mask) in enumerate(things)
    ]
    return Record(image_id, photo.name, digest, 64, 48, "train", role, instances=tuple(instances))


@dataclass
class Run:
    """One attempt of a job: its folders, and when it is told to stop."""

    folder: Path
    stop_after: int | None = None
    asked: int = 0

    def should_stop(self) -> bool:
        self.asked += 1
        return self.stop_after is not None and self.asked > self.stop_after

    def context(self, out: str, *, seed: int = 0, root: Path | None = None) -> TrainContext:
        (self.folder / out).mkdir(parents=True)
        (self.folder / "work").mkdir(exist_ok=True)
        return TrainContext(
            device="cpu",
            ontology=ONTOLOGY,
            images_root=root or self.folder,
            artifacts={},
            seed=seed,
            workdir=self.folder / "work",
            out=self.folder / out,
            progress=lambda done, total, note: (
                None if 0 <= done <= total and note else pytest.fail("progress")
            ),
            should_stop=self.should_stop,
        )


Tuned = tuple[Metrics, dict[str, dict[str, torch.Tensor]]]


@pytest.fixture
def run_tune(make_sam: Callable[[int], Sam]) -> Callable[..., Tuned]:
    def run(records: list[Record], context: TrainContext, settings: ClassAwareSettings = SETTINGS) -> Tuned:
        predictor, texts = (
            SamPredictor(make_sam(0)),
            ClassTexts(TwoNames(), ONTOLOGY) if settings.class_aware else None,
        )
        answerer = Answerer(predictor, {}, texts, zoom=Zoom(settings.zoom, 64))
        metrics = SamTeacher(answerer, settings, IDENTITY).fit(Listed(tuple(records)), context)
        return metrics, {path.stem: load_file(path) for path in context.out.glob("*.safetensors")}

    return run


def equal(a: Mapping[str, Mapping[str, torch.Tensor]], b: Mapping[str, Mapping[str, torch.Tensor]]) -> bool:
    same_keys = a.keys() == b.keys() and all(a[v].keys() == b[v].keys() for v in a)
    return same_keys and all(torch.equal(a[v][name], b[v][name]) for v in a for name in a[v])


def reserved_after(count: int, root: Path) -> list[Record]:
    """`count` training images and one reserved image, so that no fold is made."""
    return [scene(i, root) for i in range(count)] + [scene(count, root, role=Role.RESERVED)]


def weakly(image_id: int, root: Path, kind: WeakKind = WeakKind.BOX) -> Record:
    """A scene of which no more is known than the kind says."""
    return simulate(scene(image_id, root), kind, 0)


def test_the_surest_masks_of_weak_images_are_learned_from_too(
    run_tune: Callable[..., Tuned], tmp_path: Path
) -> None:
    records = reserved_after(3, tmp_path)
    weak = [
        weakly(i, tmp_path, kind)
        for i, kind in ((10, WeakKind.BOX), (11, WeakKind.POINT), (12, WeakKind.CLASS))
    ]
    dropped = replace(weakly(13, tmp_path), dropped="why")
    plain, first = run_tune(records, Run(tmp_path / "a").context("out", root=tmp_path))
    settings = SETTINGS.model_copy(update={"self_training": 0.5})
    run = Run(tmp_path / "b").context("out", root=tmp_path)
    metrics, second = run_tune([*records, *weak, dropped], run, settings)
    assert metrics["own_masks"] == 2  # half of four; nothing says where the third image's things are
    assert not equal(first, second)
    curves = json.loads((tmp_path / "b/out/loss.json").read_text())["."]
    assert {len(curve) for curve in curves.values()} == {2 * SETTINGS.steps}
    assert (
        curves["box"][: SETTINGS.steps] == json.loads((tmp_path / "a/out/loss.json").read_text())["."]["box"]
    )
    nothing, same = run_tune([*records, weak[2]], Run(tmp_path / "c").context("out", root=tmp_path), settings)
    assert "own_masks" not in nothing
    assert equal(first, same)
    assert plain["images"] == metrics["images"] == 3


@pytest.mark.parametrize("zoom", [0.0, 0.4])
def test_moved_boxes_teach_something_else(
    run_tune: Callable[..., Tuned], tmp_path: Path, zoom: float
) -> None:
    records = reserved_after(3, tmp_path)
    heads = []
    for jitter in (0.0, 0.2):
        settings = SETTINGS.model_copy(update={"box_jitter": jitter, "zoom": zoom})
        heads.append(
            run_tune(records, Run(tmp_path / str(jitter)).context("out", root=tmp_path), settings)[1]
        )
    assert not any(
        torch.equal(heads[0][variant][name], heads[1][variant][name])
        for variant in ("box", "point_box")
        for name in heads[0][variant]
        if name.endswith("output_upscaling.0.weight")
    )
    assert equal({"point": heads[0]["point"]}, {"point": heads[1]["point"]})  # a point has no box to move


@pytest.mark.parametrize(
    "settings", [{"box_jitter": 0.1, "zoom": 0.6}, {"box_jitter": 0.2, "zoom": 0.45}, {"box_jitter": 0.3}]
)
def test_boxes_are_not_moved_out_of_sight(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=r"zoom of at most 0\.(57|40),|less than or equal to 0\.2"):
        ClassAwareSettings.model_validate(settings)


def test_the_second_round_goes_on_from_the_first(
    run_tune: Callable[..., Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [*reserved_after(3, tmp_path), weakly(10, tmp_path)]
    _, first = run_tune(records, Run(tmp_path / "a").context("out", root=tmp_path))
    run = HeadTrainer.run

    def idle(self: HeadTrainer, *rest: object) -> None:
        if not self._task.name.endswith("/again"):
            run(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(HeadTrainer, "run", idle)
    settings = SETTINGS.model_copy(update={"self_training": 1.0})
    _, second = run_tune(records, Run(tmp_path / "b").context("out", root=tmp_path), settings)
    assert equal(first, second)


@pytest.mark.parametrize(("share", "kept"), [(0.25, [2]), (0.5, [0, 2]), (1.0, [0, 1, 2, 3])])
def test_the_surest_are_those_with_the_highest_certainty(
    tmp_path: Path, share: float, kept: list[int]
) -> None:
    records = [weakly(i, tmp_path) for i in (10, 11)]
    sure = iter([0.7, 0.2, 0.9, 0.6])

    def label(batch: Sequence[Sample]) -> list[list[Instance]]:
        truths = [scene(sample.record.image_id, tmp_path).instances for sample in batch]
        return [[replace(i, source=Source.TEACHER, pred_iou=next(sure)) for i in truth] for truth in truths]

    found = surest(records, label, root=tmp_path, share=share, first=5, heed_stop=lambda: None)
    every = [
        (5 + image, i.rle) for image, record in enumerate((10, 11)) for i in scene(record, tmp_path).instances
    ]
    assert [(target.image, target.rle) for target in found] == [every[row] for row in kept]


def test_with_few_masks_every_fold_has_its_own_second_round(
    run_tune: Callable[..., Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And labels with its own first one: the whole teacher has seen what the fold is to be judged on."""
    asked: list[str] = []
    labeller = SamTeacher._labeller

    def noted(self: SamTeacher, folder: Path) -> object:
        asked.append(folder.relative_to(tmp_path / "out").as_posix())
        return labeller(self, folder)

    monkeypatch.setattr(SamTeacher, "_labeller", noted)
    records = [scene(i, tmp_path) for i in range(3)] + [weakly(10, tmp_path)]
    run_tune(records, Run(tmp_path).context("out"), SETTINGS.model_copy(update={"self_training": 1.0}))
    curves = json.loads((tmp_path / "out/loss.json").read_text())
    assert {len(curve) for part in curves.values() for curve in part.values()} == {2 * SETTINGS.steps}
    assert len(curves) == 4
    assert sorted(asked) == [".", "folds/0", "folds/1", "folds/2"]


def test_certainty_is_the_product_of_what_is_known() -> None:
    made = Instance(Source.TEACHER, 3, pred_iou=0.8, stability=0.5)
    assert certainty(made) == pytest.approx(0.4)
    assert certainty(replace(made, stability=None)) == pytest.approx(0.8)
    assert certainty(Instance(Source.TEACHER, 3)) == 1


def test_it_learns_and_says_so(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 24, "lr": 3e-3, "points": 128})
    metrics, heads = run_tune(reserved_after(4, tmp_path), Run(tmp_path).context("out"), settings)
    assert set(heads) == {"box", "point", "point_box", "plain_box"}
    for variant in heads:
        assert metrics[f"loss_last_{variant}"] < 0.9 * metrics[f"loss_first_{variant}"]
    curves = json.loads((tmp_path / "out/loss.json").read_text())["."]
    assert {variant: len(curve) for variant, curve in curves.items()} == dict.fromkeys(heads, 24)
    teacher = read_teacher(tmp_path / "out")
    assert (teacher.zero_shot, teacher.images, teacher.instances, teacher.folds) == (False, 4, 8, ())


def test_the_file_holds_what_was_trained(
    run_tune: Callable[..., Tuned], make_sam: Callable[[int], Sam], tmp_path: Path
) -> None:
    _, heads = run_tune(reserved_after(2, tmp_path), Run(tmp_path).context("out"))
    decoder = {f"decoder.{name}" for name in make_sam(0).mask_decoder.state_dict()}
    branch = {name for name in heads["box"] if not name.startswith("decoder.")}
    assert set(heads["box"]) - branch == decoder
    assert {
        "branch.zero.weight",
        "branch.project.bias",
        "branch.trainable.point_embeddings.1.weight",
    } <= branch
    assert not any("mask_downscaling" in name or "gaussian" in name for name in branch)
    loaded = load_head(make_sam(0), tmp_path / "out", "box", settings=SETTINGS, text_width=4)
    assert torch.equal(loaded.decoder.iou_token.weight, heads["box"]["decoder.iou_token.weight"])
    assert loaded.branch is not None
    assert torch.equal(loaded.branch.zero.weight, heads["box"]["branch.zero.weight"])
    assert loaded.branch.zero.weight.abs().sum() > 0
    assert not any(value.requires_grad for value in loaded.decoder.parameters())


@pytest.mark.parametrize(
    ("stop_after", "more"),
    [
        (1, {}),
        (8, {}),
        (26, {}),
        (13, {"lora": 2}),
        (42, {"self_training": 0.5}),
        (58, {"self_training": 0.5, "lora": 2, "box_jitter": 0.1}),
    ],
)
def test_same_bits_after_a_stop(
    run_tune: Callable[..., Tuned], tmp_path: Path, stop_after: int, more: dict[str, object]
) -> None:
    records = [*reserved_after(3, tmp_path), *(weakly(i, tmp_path) for i in (10, 11))]
    settings = SETTINGS.model_copy(update=more)
    (tmp_path / "whole").mkdir()
    whole = Run(tmp_path / "whole").context("out")
    expected = run_tune(records, replace(whole, images_root=tmp_path), settings)
    run = Run(tmp_path, stop_after)
    with pytest.raises(Stopped):
        run_tune(records, run.context("first"), settings)
    run.stop_after = None
    again = run_tune(records, run.context("second"), settings)
    assert equal(again[1], expected[1])
    assert again[0] == expected[0]
    assert (tmp_path / "second/loss.json").read_text() == (tmp_path / "whole/out/loss.json").read_text()


class Killed(BaseException):
    """Stands for a kill: no handler runs, nothing is saved."""


def test_same_bits_after_a_kill_between_checkpoints(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    records = reserved_after(3, tmp_path)
    (tmp_path / "whole").mkdir()
    expected = run_tune(records, replace(Run(tmp_path / "whole").context("out"), images_root=tmp_path))
    run = Run(tmp_path)
    steps: list[int] = []

    def die(done: int, _total: int, note: str) -> None:
        if note == "point" and done not in steps:
            steps.append(done)
            if len(steps) == 6:  # five steps into the second head: three are saved
                raise Killed

    with pytest.raises(Killed):
        run_tune(records, replace(run.context("first"), progress=die))
    assert equal(run_tune(records, run.context("second"))[1], expected[1])


def test_seed_and_cache_limit(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    records = reserved_after(3, tmp_path)
    results = []
    for name, seed, cache_gb in (("a", 0, 1.0), ("b", 0, 5e-6), ("c", 1, 1.0)):
        (tmp_path / name).mkdir()
        context = replace(Run(tmp_path / name).context("out", seed=seed), images_root=tmp_path)
        results.append(
            run_tune(records, context, SETTINGS.model_copy(update={"cache_gb": cache_gb, "steps": 3}))[1]
        )
    assert (
        tmp_path / "b" / "work" / "scratch" / "embeddings.bin"
    ).stat().st_size == 4096  # one image of 32 x 8 x 8 float16
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2])


@pytest.mark.parametrize(
    ("class_aware", "variants", "with_branch"),
    [
        (True, {"box", "point", "point_box"}, {"box", "point", "point_box"}),
        (False, {"box", "point", "point_box"}, set()),
        ("no_box", {"box", "point", "point_box", "plain_box"}, {"box", "point", "point_box"}),
    ],
)
def test_variants(
    run_tune: Callable[..., Tuned],
    tmp_path: Path,
    class_aware: bool | str,
    variants: set[str],
    with_branch: set[str],
) -> None:
    settings = ClassAwareSettings(**{**SETTINGS.model_dump(), "class_aware": class_aware, "steps": 1})
    _, heads = run_tune(reserved_after(2, tmp_path), Run(tmp_path).context("out"), settings)
    assert set(heads) == variants
    assert {v for v in heads if any(name.startswith("branch.") for name in heads[v])} == with_branch


@pytest.mark.parametrize("count", [2, 3, 7])
def test_few_masks_are_folded(run_tune: Callable[..., Tuned], tmp_path: Path, count: int) -> None:
    settings = SETTINGS.model_copy(update={"steps": 1})
    records = [scene(i, tmp_path) for i in range(count)]
    metrics, _ = run_tune(records, Run(tmp_path).context("out"), settings)
    teacher = read_teacher(tmp_path / "out")
    assert metrics["folds"] == len(teacher.folds) == min(5, count)
    held_out = [image_id for fold in teacher.folds for image_id in fold.held_out]
    assert sorted(held_out) == list(range(count))
    for fold in teacher.folds:
        own = read_teacher(tmp_path / "out" / fold.path)
        assert (own.images, own.instances) == (count - len(fold.held_out), 2 * (count - len(fold.held_out)))
        assert {p.stem for p in (tmp_path / "out" / fold.path).glob("*.safetensors")} == set(
            settings.variants
        )


def test_no_folds_where_nobody_asks_for_them(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    records = [scene(i, tmp_path) for i in range(3)]
    both = [
        run_tune(records, Run(tmp_path / str(on)).context("out", root=tmp_path), settings)
        for on, settings in ((on, SETTINGS.model_copy(update={"cross_fit": on})) for on in (True, False))
    ]
    assert [metrics["folds"] for metrics, _ in both] == [3, 0]
    assert read_teacher(tmp_path / "False/out").folds == ()
    assert equal(both[0][1], both[1][1])


def test_the_branch_can_learn_at_a_rate_of_its_own(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    heads = {}
    for rate in (None, SETTINGS.lr, 0.1):
        settings = SETTINGS.model_copy(update={"branch_lr": rate, "steps": 2, "decay_at": 0.5})
        context = Run(tmp_path / str(rate)).context("out", root=tmp_path)
        heads[rate] = run_tune(reserved_after(2, tmp_path), context, settings)[1]["box"]
    assert equal({"box": heads[None]}, {"box": heads[SETTINGS.lr]})
    far, near = ({name: value.abs().max() for name, value in heads[rate].items()} for rate in (0.1, None))
    # AdamW's first step is of the rate, its second, at the dropped rate, of a tenth of it at most, and some more.
    assert 0.05 < far["branch.zero.weight"] < 0.12
    assert near["branch.zero.weight"] < 0.002
    moved = (heads[0.1]["decoder.iou_token.weight"] - heads[None]["decoder.iou_token.weight"]).abs().max()
    assert moved < 0.003  # the decoder goes at its own rate, to another place


def test_a_fold_does_not_see_what_it_holds_out(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 3})
    records = [scene(i, tmp_path) for i in range(3)]
    run_tune(records, Run(tmp_path).context("out"), settings)
    fold = read_teacher(tmp_path / "out").folds[0]
    changed = [replace(r, instances=r.instances[:1]) if r.image_id in fold.held_out else r for r in records]
    (tmp_path / "b").mkdir()
    run_tune(changed, replace(Run(tmp_path / "b").context("out"), images_root=tmp_path), settings)
    for name, same in ((fold.path, True), (".", False)):
        one, other = (
            load_file(root / "out" / name / "box.safetensors") for root in (tmp_path, tmp_path / "b")
        )
        assert all(torch.equal(one[key], other[key]) for key in one) is same


@pytest.mark.parametrize(("images", "masks"), [(0, 0), (1, 2), (3, 0)])
def test_too_few_masks_mean_zero_shot(
    run_tune: Callable[..., Tuned], tmp_path: Path, images: int, masks: int
) -> None:
    records = [scene(i, tmp_path) for i in range(images)]
    records = records if masks else [replace(record, instances=()) for record in records]
    metrics, heads = run_tune(records, Run(tmp_path).context("out"))
    teacher = read_teacher(tmp_path / "out")
    assert heads == {}
    assert teacher.zero_shot
    assert teacher.reason == metrics["zero_shot"]
    assert f"found {images} with {masks} masks" in str(teacher.reason)


def test_reserved_masks_are_never_learnt_from(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    records = reserved_after(2, tmp_path)
    (tmp_path / "2.png").unlink()  # the reserved image: reading it would fail
    metrics, _ = run_tune(records, Run(tmp_path).context("out"), SETTINGS.model_copy(update={"steps": 1}))
    assert (metrics["images"], metrics["instances"]) == (2, 4)


def widened(record: Record) -> Record:
    """A record that is one column wider than its photo."""
    masks = (np.pad(decode(instance.rle), ((0, 0), (0, 1))) for instance in record.instances)
    instances = (replace(i, rle=encode(mask)) for i, mask in zip(record.instances, masks, strict=True))
    return replace(record, width=65, instances=tuple(instances))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda record: replace(record, uri="gone.png"), "gone.png"),
        (widened, "expected 65x48, found 64x48"),
        (lambda record: replace(record, sha256="0" * 64), "changed since ingest"),
    ],
)
def test_bad_input(
    run_tune: Callable[..., Tuned],
    tmp_path: Path,
    break_it: Callable[[Record], Record],
    message: str,
) -> None:
    records = reserved_after(2, tmp_path)
    records[0] = break_it(records[0])
    with pytest.raises(BadInput, match=message):
        run_tune(records, Run(tmp_path).context("out"))


def test_a_loss_that_explodes_stops_the_job(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"lr": 1e30})
    with pytest.raises(BadInput, match="a lower lr may help"):
        run_tune(reserved_after(2, tmp_path), Run(tmp_path).context("out"), settings)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "box.safetensors"),
        (lambda path: path.write_bytes(b"x"), "not weights of this model"),
    ],
)
def test_damaged_heads_are_refused(
    run_tune: Callable[..., Tuned],
    make_sam: Callable[[int], Sam],
    tmp_path: Path,
    spoil: Callable[[Path], None],
    message: str,
) -> None:
    run_tune(
        reserved_after(2, tmp_path), Run(tmp_path).context("out"), SETTINGS.model_copy(update={"steps": 1})
    )
    with pytest.raises(BadInput, match=r"expected .* tensors, found"):
        load_head(
            make_sam(0),
            tmp_path / "out",
            "box",
            settings=SETTINGS.model_copy(update={"class_aware": False}),
            text_width=4,
        )
    spoil(tmp_path / "out/box.safetensors")
    with pytest.raises(BadInput, match=message):
        load_head(make_sam(0), tmp_path / "out", "box", settings=SETTINGS, text_width=4)


def test_the_learning_rate_drops_once(
    run_tune: Callable[..., Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *args: None) -> object:
        rates.append(self.param_groups[0]["lr"])
        assert self.param_groups[0]["weight_decay"] == 0.05
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    run_tune(reserved_after(2, tmp_path), Run(tmp_path).context("out"))
    assert rates == pytest.approx(([1e-3] * 6 + [1e-4] * 2) * 4)


def test_boxes_are_learnt_on_their_windows_and_points_on_the_whole_image(
    run_tune: Callable[..., Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[bool, set[Part]] = {True: set(), False: set()}
    forward = SamPredictor.forward

    def spy(self: SamPredictor, head: Head, embeddings: Embeddings, asks: list[Ask]) -> object:
        for ask in asks:
            seen = embeddings.frames[ask.image].window
            asked[ask.prompt.box_xyxy is not None].add((0, seen))
            if ask.prompt.box_xyxy is not None:
                assert seen == Zoom(0.6, 64).window(ask.prompt, 48, 64)
        return forward(self, head, embeddings, asks)

    monkeypatch.setattr(SamPredictor, "forward", spy)
    settings = ClassAwareSettings(**{**SETTINGS.model_dump(), "zoom": 0.6})
    run_tune(reserved_after(3, tmp_path), Run(tmp_path).context("out"), settings)
    assert asked[False] == {(0, None)}
    assert len(asked[True]) > 3
    assert (0, None) not in asked[True]


def test_the_cache_has_what_it_was_made_for(make_sam: Callable[[int], Sam]) -> None:
    cache = EmbeddingCache(SamPredictor(make_sam(0)), (), (), dtype="float32", limit_bytes=0)
    with pytest.raises(KeyError):
        cache.gather([(0, None)])


def photo_record(pixels: np.ndarray, mask: np.ndarray, root: Path) -> Record:
    path = root / f"{len(list(root.glob('*.png')))}.png"
    Image.fromarray(pixels).save(path)
    height, width = mask.shape
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    made = Instance(Source.HUMAN, 3, rle=encode(mask))
    return Record(1, path.name, digest, width, height, "train", Role.HUMAN_MASKED, instances=(made,))


@pytest.mark.parametrize("corner", [(30, 12), (3, 30)])
def test_the_loss_of_a_part_is_that_of_the_part_as_an_image_of_its_own(
    make_sam: Callable[[int], Sam], tmp_path: Path, corner: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    pixels, mask = rng.integers(0, 256, (48, 64, 3), np.uint8), np.zeros((48, 64), bool)
    x, y = corner
    mask[y : y + 6, x : x + 8] = rng.random((6, 8)) < 0.7
    mask[y, x] = mask[y + 5, x + 7] = True
    zoom, predictor = Zoom(0.5, 64), SamPredictor(make_sam(0))
    window = zoom.window(Prompt(Origin.HUMAN, (x, y, x + 8, y + 6)), 48, 64)
    assert window is not None
    losses = []
    for record, own_zoom in (
        (photo_record(pixels, mask, tmp_path), zoom),
        (photo_record(np.ascontiguousarray(window.of(pixels)), window.of(mask), tmp_path), NO_ZOOM),
    ):
        training = collect([record])
        parts = [target.part("box", own_zoom) for target in training.targets]
        cache = EmbeddingCache(predictor, training.images, parts, dtype="float32", limit_bytes=0)
        cache.build(
            replace(Run(tmp_path / record.uri[0]).context("out"), images_root=tmp_path), lambda *_: None
        )
        bench = Bench(predictor, cache, None, SETTINGS, 0, own_zoom)
        task = HeadTask("box", "box", predictor.plain_head(), training.targets, bench)
        losses.append(float(batch_loss(task, 0).detach()))
    assert losses[0] == losses[1] > 0


def test_every_pass_shows_every_target_once(make_sam: Callable[[int], Sam], tmp_path: Path) -> None:
    training = collect([scene(i, tmp_path) for i in range(4)])
    predictor = SamPredictor(make_sam(0))
    bench = Bench(
        predictor,
        EmbeddingCache(predictor, (), (), dtype="float32", limit_bytes=0),
        None,
        SETTINGS,
        0,
        NO_ZOOM,
    )
    task = HeadTask("box", "box", predictor.plain_head(), training.targets, bench)
    shown = [target for step in range(8) for target in batch_targets(task, step)]  # 24: three passes over 8
    for start in (0, 8, 16):
        assert set(shown[start : start + 8]) == set(training.targets)
    assert shown[:8] != shown[8:16]


def test_the_clicked_pixel_is_anywhere_on_the_mask_and_drawn_anew(tmp_path: Path) -> None:
    target = collect([scene(0, tmp_path)]).targets[0]
    mask = decode(target.rle)
    rng = np.random.default_rng(0)
    clicks = [target.prompt("point_box", rng) for _ in range(600)]
    assert {click.box_xyxy for click in clicks} == {target.box}
    seen = np.zeros_like(mask)
    for click in clicks:
        [point] = click.points
        assert (point.x % 1, point.y % 1, point.label) == (0.5, 0.5, 1)
        seen[int(point.y), int(point.x)] = True
    assert not (seen & ~mask).any()
    assert seen.sum() > 0.8 * mask.sum()
    assert target.prompt("box", rng).points == ()
    assert target.prompt("point", rng).box_xyxy is None
