"""The table of teachers and proposers: settings checked, models built, artifacts matched to their weights."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import JsonValue
from safetensors.torch import save_file
from segment_anything.modeling import Sam

from pipeline.data.errors import BadInput
from pipeline.data.records import Category, Instance, Ontology, Record, Role, Source
from pipeline.found import find_teacher
from teachers import catalog, sam_models
from teachers.catalog import ModelSpec
from teachers.heads import TeacherFile, new_head, save_head
from teachers.protocols import Sample
from teachers.sam import load as sam_load
from teachers.sam_teacher import SamTeacher
from teachers.settings import ClassAwareSettings

ONTOLOGY = Ontology((Category(1, "cat"),))


def spec(use: str, **settings: JsonValue) -> ModelSpec:
    return ModelSpec(name="mine", use=use, settings=settings)


def test_the_table_names_what_there_is() -> None:
    assert catalog.names("teacher") == ("class_aware_sam", "am_sam", "sam", "fake_teacher")
    assert catalog.names("proposer") == (
        "grounding_dino",
        "tiny_grounder",
        "aligned_detector",
        "fake_proposer",
    )


def test_importing_the_table_imports_no_torch() -> None:
    code = "import sys, teachers.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_papers_numbers_are_the_defaults() -> None:
    settings = catalog.check(spec("class_aware_sam"))
    assert isinstance(settings, ClassAwareSettings)
    assert (settings.steps, settings.lr, settings.batch_size, settings.points) == (36874, 1e-5, 246, 12544)
    assert settings.decay_step == 27655
    assert settings.class_aware == "no_box"
    assert (settings.alpha, settings.beta, settings.tau, settings.score, settings.nms) == (
        5,
        2,
        0.1,
        0.3,
        0.9,
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (spec("class_aware_sma"), "models.mine.use: no model 'class_aware_sma'; nearest: class_aware_sam"),
        (spec("sam", steps=3), "models.mine.steps: Extra inputs are not permitted"),
        (
            spec("sam", sam="vit_x", chunk=0),
            "models.mine.sam: .*vit_h.*; models.mine.chunk: .*greater than or equal",
        ),
        (spec("class_aware_sam", class_aware="maybe"), "models.mine.class_aware"),
        (spec("class_aware_sam", sha256="abc"), "models.mine.sha256"),
        (spec("sam", sam="vit_b"), "vit_b needs `checkpoint`"),
        (spec("grounding_dino"), "models.mine.checkpoint: Field required"),
    ],
)
def test_bad_specs(bad: ModelSpec, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        catalog.load(bad, ontology=ONTOLOGY, device="cpu")


def test_kinds_are_told_apart() -> None:
    with pytest.raises(BadInput, match=r"expected a teacher .*, found proposer 'tiny_grounder'"):
        catalog.load_teacher(spec("tiny_grounder"), ontology=ONTOLOGY, device="cpu")
    with pytest.raises(BadInput, match=r"expected a proposer .*, found teacher 'sam'"):
        catalog.load_proposer(spec("sam"), ontology=ONTOLOGY, device="cpu")


class Text:
    def encode(self, names: list[str]) -> np.ndarray:
        return np.ones((len(names), 3), np.float32)


@pytest.fixture
def checkpoint(make_sam: Callable[[int], Sam], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the small SAM, which stands for ViT-B; the text tower is a double."""
    monkeypatch.setitem(sam_load.BUILDERS, "vit_b", lambda: make_sam(1))
    monkeypatch.setattr(sam_models, "load_text", lambda *_, **__: Text())
    path = tmp_path / "sam.safetensors"
    save_file(make_sam(0).state_dict(), path)
    return path


def weak_sample() -> Sample:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    boxed = Instance(Source.HUMAN, 1, box_xyxy=(5.0, 5.0, 30.0, 30.0))
    return Sample(Record(1, "a", "0", 50, 40, "train", Role.WEAK, instances=(boxed,)), image)


def build(checkpoint: Path, artifact: Path | None = None, **settings: JsonValue) -> SamTeacher:
    full = spec("class_aware_sam", sam="vit_b", checkpoint=str(checkpoint), **settings)
    teacher = catalog.load_teacher(full, ontology=ONTOLOGY, device="cpu", artifact=artifact)
    assert isinstance(teacher, SamTeacher)
    return teacher


def artifact_of(teacher: SamTeacher, folder: Path, **changes: object) -> Path:
    """What tuning writes, with heads that differ from plain SAM."""
    folder.mkdir()
    assert isinstance(teacher.settings, ClassAwareSettings)
    for variant in teacher.settings.variants:
        head = new_head(teacher.answerer.predictor.sam, variant, teacher.settings, text_width=3, seed=0)
        if head.branch is not None:
            head.branch.zero.weight.data.normal_()
        save_head(head, folder, variant)
    identity = teacher.identity.model_copy(update=changes)
    variants = teacher.settings.variants
    TeacherFile(model=identity, zero_shot=False, variants=variants, images=2, instances=3).save(folder)
    return folder


@pytest.mark.parametrize("class_aware", [True, False, "no_box"])
def test_build_tune_load(checkpoint: Path, tmp_path: Path, class_aware: bool | str) -> None:
    fresh = build(checkpoint, class_aware=class_aware)
    assert (fresh.tuned_variants, fresh.zero_shot_reason) == ((), "not tuned")
    tuned = build(checkpoint, artifact_of(fresh, tmp_path / "teacher"), class_aware=class_aware)
    assert isinstance(tuned.settings, ClassAwareSettings)
    assert tuned.tuned_variants == tuned.settings.variants
    assert tuned.zero_shot_reason is None
    zero_shot = catalog.load_teacher(
        spec("sam", sam="vit_b", checkpoint=str(checkpoint)), ontology=ONTOLOGY, device="cpu"
    )
    plain = zero_shot.label([weak_sample()])
    assert fresh.label([weak_sample()]) == plain
    ((mine,),), ((theirs,),) = tuned.label([weak_sample()]), plain
    assert (mine.rle == theirs.rle) is (class_aware is not True)
    assert mine.model != theirs.model
    tuned.select(dict.fromkeys(tuned.settings.variants, "zero_shot"))
    assert tuned.label([weak_sample()]) == plain  # the digest too: no tuned weight is behind it


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sam_sha256": "other"}, "tuned with sam_sha256 other, expected"),
        ({"text": "ViT-B-16"}, "tuned with text ViT-B-16, expected tiny"),
        ({"class_aware": True}, "tuned with class_aware True, expected no_box"),
        ({"zoom": 0.5}, r"tuned with zoom 0\.5, expected 0\.0"),
    ],
)
def test_an_artifact_of_other_weights_is_refused(
    checkpoint: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    artifact = artifact_of(build(checkpoint), tmp_path / "teacher", **changes)
    with pytest.raises(BadInput, match=rf"teacher\.json: {message}"):
        build(checkpoint, artifact)


def test_an_artifact_is_used_as_it_was_tuned(checkpoint: Path, tmp_path: Path) -> None:
    artifact = artifact_of(build(checkpoint, class_aware=True, zoom=0.2), tmp_path / "teacher")
    found = find_teacher(str(artifact))
    used = {"use": "class_aware_sam", "sam": "vit_b", "text": "tiny", "class_aware": True, "zoom": 0.2}
    assert (found.entry, found.lent) == (used, {"teacher": artifact})


def test_no_artifact_there(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"teacher\.json: not a tuned teacher"):
        build(checkpoint, tmp_path)


def test_identity_is_the_files_content(checkpoint: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(checkpoint.read_bytes())
    one, same = (
        catalog.identity(spec("class_aware_sam", sam="vit_b", checkpoint=str(path)))
        for path in (checkpoint, moved)
    )
    assert one == same
    assert set(one) == {"sam", "text"}
    assert set(catalog.identity(spec("class_aware_sam", class_aware=False))) == {"sam"}
    moved.write_bytes(b"other")
    assert catalog.identity(spec("sam", sam="vit_b", checkpoint=str(moved)))["sam"] != one["sam"]


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({"sam": "vit_b"}, ["checkpoint: vit_b needs the path of its weights, .pth or .safetensors"]),
        ({"sam": "vit_b", "checkpoint": "none.pth"}, ["checkpoint none.pth: no such file"]),
        (
            {"sam": "vit_b", "checkpoint": "junk.pth"},
            ["checkpoint junk.pth: its sha256 is .*, expected ec2df627.*"],
        ),
        ({"checkpoint": "junk.pth"}, ["checkpoint junk.pth: a pickle is read with a known sha256 only.*"]),
        (
            {"sam": "vit_b", "checkpoint": "junk.safetensors", "sha256": "0" * 64},
            ["checkpoint junk.safetensors: its sha256 is .*, expected 0000.*"],
        ),
        ({"checkpoint": "junk.txt"}, ["checkpoint junk.txt: expected a .safetensors, .pth or .pt file"]),
        ({"text": "VIT-B16"}, ["text: 'VIT-B16' is no open_clip model; nearest: .*ViT-B-16.*"]),
        ({"text": "ViT-B-16-SigLIP"}, ["text: ViT-B-16-SigLIP: its tokenizer .* would be downloaded.*"]),
        ({"text": "ViT-B-16"}, ["text_checkpoint: ViT-B-16 needs the path of its open_clip weights"]),
        (
            {"text": "ViT-B-16", "text_checkpoint": "junk.pth"},
            ["text_checkpoint junk.pth: a pickle is read with a known sha256 only.*"],
        ),
        (
            {"sam": "vit_b", "text": "ViT-B-16"},
            ["checkpoint: vit_b needs the path .*", "text_checkpoint: ViT-B-16 needs the path .*"],
        ),
    ],
)
def test_weights_that_no_model_can_load_are_told_by_their_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, JsonValue], lines: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for suffix in ("pth", "safetensors", "txt"):
        (tmp_path / f"junk.{suffix}").write_text("junk")
    with pytest.raises(BadInput) as caught:
        catalog.identity(spec("class_aware_sam", **settings))
    found = str(caught.value).splitlines()
    assert len(found) == len(lines)
    assert all(re.fullmatch(line, text) for line, text in zip(lines, found, strict=True)), found


def test_grounding_dinos_given_digest_is_compared(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("weights")
    assert set(catalog.identity(spec("grounding_dino", checkpoint=str(tmp_path)))) == {"grounding_dino"}
    with pytest.raises(BadInput, match=r"model.safetensors: its sha256 is .*, expected 0000"):
        catalog.identity(spec("grounding_dino", checkpoint=str(tmp_path), sha256="0" * 64))
