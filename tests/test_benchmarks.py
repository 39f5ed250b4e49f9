"""The speed benchmarks on the smallest sizes: the line they print, and what makes them fail.

Ratios mean nothing at these sizes, so only the checks of equality are looked at, and that a missed ratio is told.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch
from small_models import build_small_sam, small_dino_config

import pipeline.data.coco_ap
import pipeline.data.coco_write
import pipeline.data.masks
from benchmarks import captions, coco_io, evaluate, labelling, masks, teacher_tuning, timing
from pipeline.data.coco import CocoWriter
from pipeline.data.masks import encode
from teachers.embedding_cache import EmbeddingCache
from teachers.grounding import GroundingDino
from teachers.sam.load import BUILDERS

Line = dict[str, object]
Run = Callable[..., tuple[int, Line]]
SMALL: dict[ModuleType, list[str]] = {
    captions: ["--shortest=64", "--classes=2", "--repeats=1"],
    coco_io: ["--annotations=30"],
    evaluate: ["--images=4", "--repeats=1"],
    labelling: ["--images=1", "--repeats=1", "--many=2", "--shortest=64"],
    masks: ["--blobs=1", "--repeats=1"],
    teacher_tuning: ["--images=2", "--repeats=1"],
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, the smallest SAM for ViT-B, and the smallest Grounding DINO."""
    before = torch.get_num_threads()
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    monkeypatch.setitem(BUILDERS, "vit_b", build_small_sam)
    tiny = partial(captions.grounding_dino, config=small_dino_config())
    for benchmark in (captions, labelling):
        monkeypatch.setattr(benchmark, "grounding_dino", tiny)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(benchmark: ModuleType) -> tuple[int, Line]:
        threads = [] if benchmark is coco_io else ["--threads=1"]
        code = benchmark.main([*SMALL[benchmark], *threads])
        (line,) = capsys.readouterr().out.splitlines()
        return code, json.loads(line)

    return call


def in_this_process(phase: str, folder: object, count: int) -> dict[str, float]:
    return {**coco_io.PHASES[phase](folder, count), "peak": 1}  # type: ignore[arg-type]


@pytest.mark.parametrize("benchmark", SMALL, ids=lambda module: module.__name__.split(".")[-1])
def test_one_line_with_the_numbers_and_what_they_are_checked_for(run: Run, benchmark: ModuleType) -> None:
    code, line = run(benchmark)
    assert line["benchmark"] == benchmark.__name__.split(".")[-1]
    checks = line["checks"]
    assert isinstance(checks, dict)
    assert code == (0 if all(checks.values()) else 1)
    assert all(passed for name, passed in checks.items() if "at least" not in name)
    assert json.dumps(line, allow_nan=False)
    assert benchmark.__doc__ is not None
    assert f"python -m {benchmark.__name__}" in benchmark.__doc__


ONE_A_CLASS = GroundingDino.captions
WRONG: list[tuple[ModuleType, object, str, object, str]] = [
    (
        labelling,
        labelling,
        "naive_mask",
        lambda _sam, _features, frame, _box: encode(np.eye(frame.height, frame.width, dtype=bool)),
        "the loop's masks",
    ),
    (
        captions,
        GroundingDino,
        "captions",
        lambda self, phrases: [caption for one in phrases for caption in ONE_A_CLASS(self, [one])],
        "one caption",
    ),
    (captions, GroundingDino, "_one", lambda _self, _sample, _asked: [], "every class"),
    (masks, masks, "full_canvas", lambda logits: torch.from_numpy(logits).T, "same texts"),
    (
        evaluate,
        pipeline.data.coco_ap,
        "_mean",
        lambda cut: float(np.nextafter(cut[cut > -1].mean(), 2)),
        "same twelve numbers",
    ),
    (
        teacher_tuning,
        EmbeddingCache,
        "_row",
        lambda self, index: self._maps[0][index] * np.float32(1.01),
        "same losses",
    ),
    (
        coco_io,
        pipeline.data.masks,
        "rle_from_coco",
        lambda _segmentation, height, width, where: encode(np.ones((height, width), bool)),  # noqa: ARG005
        "same masks",
    ),
    (coco_io, CocoWriter, "_write", lambda *_given, **_crowd: None, "every annotation"),
    (
        coco_io,
        pipeline.data.coco_write,
        "_rle",
        lambda rle: coco_io.sized(encode(np.eye(*rle.size, dtype=bool))),
        "what was written",
    ),
]


@pytest.mark.parametrize(
    ("benchmark", "owner", "name", "wrong", "check"),
    WRONG,
    ids=[f"{row[0].__name__.split('.')[-1]}: {row[2]}" for row in WRONG],
)
def test_a_wrong_result_fails(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    *,
    benchmark: ModuleType,
    owner: object,
    name: str,
    wrong: object,
    check: str,
) -> None:
    monkeypatch.setattr(owner, name, wrong)
    monkeypatch.setattr(coco_io, "run_phase", in_this_process)
    code, line = run(benchmark)
    assert (code, line["checks"][check]) == (1, False)  # type: ignore[index]


LEAST = {captions: 1, evaluate: 10, labelling: 0.8, masks: 15, teacher_tuning: 20}


@pytest.mark.parametrize("benchmark", LEAST, ids=lambda module: module.__name__.split(".")[-1])
def test_a_missed_ratio_fails(run: Run, monkeypatch: pytest.MonkeyPatch, benchmark: ModuleType) -> None:
    assert LEAST[benchmark] == benchmark.LEAST
    monkeypatch.setattr(benchmark, "LEAST", 1e9)
    code, line = run(benchmark)
    failed = [name for name, passed in line["checks"].items() if not passed]  # type: ignore[attr-defined]
    assert code == 1
    assert len(failed) == 1
    assert failed[0].startswith("at least 1e+09")


def test_empty_masks_are_like_no_other() -> None:
    mask = encode(np.eye(4, dtype=bool))
    assert labelling.likeness([[mask, mask]], [[mask, mask]]) == 1
    assert labelling.likeness([[None, None]], [[None, mask]]) == 0


def test_ways_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    ways = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
    timed = timing.in_turns(ways, repeats=2)
    assert calls == list("ababab")
    assert (timed["a"].result, timed["b"].result) == (1, 2)
    assert len(timed["a"].seconds) == 2
    slow, fast = timing.Timed((3.0, 9.0, 4.0), 0), timing.Timed((2.0, 0.1, 2.0), 0)
    assert timing.times_faster(slow, fast) == 2.0


@pytest.mark.parametrize("wrong", ["--repeats=0", "--threads=-1", "--images=x", "--nothing=1"])
def test_settings_that_cannot_be(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        timing.options("what it is", [wrong], repeats=1, images=1)
    assert wrong.split("=")[0] in capsys.readouterr().err
