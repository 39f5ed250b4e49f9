"""The real run's models: official class, random numbers, the publisher's file, `catalog.load`, the same outputs.

The full sizes take gigabytes and minutes (`make test-slow`); rows with narrower numbers go the same way in the default
suite. tests/official.py writes the files; no official weights are anywhere near.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from official import (
    NARROW_DINO,
    blank_pickle,
    blank_safetensors,
    clip,
    grounding_dino,
    publish_backbone,
    publish_clip,
    publish_grounding_dino,
    randomise,
    resnet_50,
    sha256,
    swin_tiny,
)
from PIL import Image
from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from segment_anything.build_sam import _build_sam
from segment_anything.modeling import Sam
from torch import Tensor, nn
from transformers import GroundingDinoProcessor

from pipeline.data import masks
from pipeline.data.errors import BadInput
from pipeline.data.records import Category, Instance, Ontology, Origin, Prompt, Record, Role, Source
from pipeline.engine.context import TrainContext
from students import catalog as students
from students.mask2former import Mask2Former
from students.settings import PAPER, RECIPES
from teachers import catalog as teachers
from teachers.catalog import ModelSpec
from teachers.protocols import Sample
from teachers.sam import load as sam_load
from teachers.sam.pixels import Frame
from teachers.sam.predictor import Ask, Embeddings, SamPredictor
from teachers.sam_teacher import SamTeacher

ONTOLOGY = Ontology((Category(1, "car"), Category(7, "traffic_light")))
BOX = (100.0, 50.0, 700.0, 500.0)
NARROW_SAM = partial(
    _build_sam,
    encoder_embed_dim=32,
    encoder_depth=2,
    encoder_num_heads=2,
    encoder_global_attn_indexes=[1],
)
slow = pytest.mark.slow


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def boxed(image: np.ndarray) -> Sample:
    height, width, _ = image.shape
    label = Instance(Source.HUMAN, 1, box_xyxy=BOX)
    return Sample(Record(1, "1.png", "0", width, height, "train", Role.WEAK, instances=(label,)), image)


def load_sam_teacher(variant: str, path: Path) -> SamTeacher:
    settings = {"sam": variant, "checkpoint": str(path), "sha256": sha256(path)}
    teacher = teachers.load(
        ModelSpec(name="t", use="sam", settings=settings), ontology=ONTOLOGY, device="cpu"
    )
    assert isinstance(teacher, SamTeacher)
    return teacher


@pytest.mark.parametrize(
    "build",
    [pytest.param(NARROW_SAM, id="narrow"), pytest.param(build_sam_vit_b, id="vit_b", marks=slow)],
)
def test_sam_from_a_published_checkpoint(
    build: Callable[[], Sam], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo's embedding, low-res logits and mask are those of segment-anything's `Sam.forward`."""
    monkeypatch.setitem(sam_load.BUILDERS, "vit_b", build)
    official = randomise(build())
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(official.state_dict(), path)
    image = photo(768, 1024)  # nothing to resize
    box = torch.tensor([BOX]) - 0.5  # segment-anything takes pixel indices, ours are continuous
    asked = {
        "image": torch.from_numpy(image).permute(2, 0, 1).float(),
        "original_size": (768, 1024),
        "boxes": box,
    }
    embedded: list[Tensor] = []
    official.image_encoder.register_forward_hook(lambda _m, _i, out: embedded.append(out))
    (expected,) = official([asked], multimask_output=False)
    del official
    teacher = load_sam_teacher("vit_b", path)
    predictor = teacher.answerer.predictor
    features = predictor.embed([image])
    torch.testing.assert_close(features.features, embedded[0], rtol=0, atol=1e-4)
    prompt = Prompt(Origin.HUMAN, BOX)
    ((_, answer),) = predictor.decode(predictor.plain_head(), features, [Ask(0, prompt)])
    np.testing.assert_allclose(answer.low_res_logits, expected["low_res_logits"][0, 0], rtol=0, atol=1e-4)
    assert answer.pred_iou == pytest.approx(expected["iou_predictions"].item(), abs=1e-4)
    ((found,),) = teacher.label([boxed(image)])
    drawn = np.zeros((768, 1024), bool) if found.rle is None else masks.decode(found.rle)
    assert (drawn != expected["masks"][0, 0].numpy()).mean() < 1e-4  # where a logit is nearly zero


def sam_parts(sam: Sam, *, first_global: int) -> dict[str, Tensor]:
    """What the encoder is made of, each part on input of its own: patches, a windowed and a global block, the neck."""
    encoder = sam.image_encoder
    random = torch.Generator().manual_seed(1)
    pixels = torch.randn(1, 3, 1024, 1024, generator=random)
    # Only two blocks stay: a global one takes 4 GB beside them.
    encoder.blocks = nn.ModuleList([encoder.blocks[0], encoder.blocks[first_global]])
    with torch.inference_mode():
        tokens = encoder.patch_embed(pixels) + encoder.pos_embed
        windowed = encoder.blocks[0](tokens)
        return {
            "windowed": windowed,
            "global": encoder.blocks[1](windowed),
            "neck": encoder.neck(windowed.permute(0, 3, 1, 2)),
        }


@pytest.mark.parametrize(
    ("variant", "build", "first_global"),
    [
        pytest.param("vit_b", NARROW_SAM, 1, id="narrow"),
        pytest.param("vit_l", build_sam_vit_l, 5, id="vit_l", marks=slow),
        pytest.param("vit_h", build_sam_vit_h, 7, id="vit_h", marks=slow),
    ],
)
def test_large_sams_from_a_published_checkpoint(
    variant: str,
    build: Callable[[], Sam],
    first_global: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every tensor, one block of each kind, the neck and the answer to a box, as a whole pass would take minutes."""
    monkeypatch.setitem(sam_load.BUILDERS, variant, build)
    official = randomise(build())
    path = tmp_path / f"sam_{variant}.pth"
    torch.save(official.state_dict(), path)
    features = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(2))
    sparse, dense = official.prompt_encoder(points=None, boxes=torch.tensor([BOX]) - 0.5, masks=None)
    logits, iou = official.mask_decoder(
        image_embeddings=features,
        image_pe=official.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    expected = sam_parts(official, first_global=first_global)
    del official
    predictor = load_sam_teacher(variant, path).answerer.predictor
    assert isinstance(predictor, SamPredictor)
    saved = torch.load(path, mmap=True, weights_only=True)
    loaded = predictor.sam.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())
    del loaded, saved
    embeddings = Embeddings(features, (Frame(768, 1024, 1024),))
    ours, score = predictor.forward(predictor.plain_head(), embeddings, [Ask(0, Prompt(Origin.HUMAN, BOX))])
    torch.testing.assert_close(ours, logits[:, 0], rtol=0, atol=1e-4)
    torch.testing.assert_close(score, iou[:, 0], rtol=0, atol=1e-4)
    found = sam_parts(predictor.sam, first_global=first_global)
    for part, tensor in expected.items():
        torch.testing.assert_close(found[part], tensor, rtol=0, atol=1e-4, msg=part)


@pytest.mark.parametrize(
    ("size", "narrower"),
    [
        pytest.param("tiny", NARROW_DINO, id="narrow"),
        pytest.param("tiny", {}, id="tiny", marks=slow),
        pytest.param("base", {}, id="base", marks=slow),
    ],
)
def test_grounding_dino_from_a_published_folder(
    size: str, narrower: dict[str, object], tmp_path: Path
) -> None:
    """Boxes and scores are those of the model before it was saved, asked through transformers' own processor."""
    official = grounding_dino(size, **narrower)
    folder = publish_grounding_dino(tmp_path / "hub", size, official)
    image = photo(32, 512)  # 83 x 1333 to the model
    processor = GroundingDinoProcessor.from_pretrained(folder)
    inputs = processor(images=[image], text="car. traffic light.", return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 83, 1333)
    with torch.inference_mode():
        out = official(**inputs)
    del official
    spec = ModelSpec(name="p", use="grounding_dino", settings={"checkpoint": str(folder)})
    proposer = teachers.load_proposer(spec, ontology=ONTOLOGY, device="cpu")
    (prompts,) = proposer.propose([boxed(image)], [[1, 7]])
    chances = out.logits[0].sigmoid()
    scores = torch.stack(
        [chances[:, [1]].mean(1), chances[:, [3, 4]].mean(1)], 1
    )  # [CLS] car . traffic light .
    best, label = scores.max(1)
    order = np.argsort(-best.numpy(), kind="stable")
    np.testing.assert_allclose([p.score for p in prompts], best[order], atol=1e-6)
    assert [p.class_id for p in prompts] == [ONTOLOGY.ids[k] for k in label[order]]
    centre, half = out.pred_boxes[0, order, :2], out.pred_boxes[0, order, 2:] / 2
    corners = torch.cat([centre - half, centre + half], 1).clip(0, 1) * torch.tensor([512, 32, 512, 32])
    np.testing.assert_allclose([p.box_xyxy for p in prompts], corners, atol=1e-2)
    assert len({p.score for p in prompts}) > 10  # the numbers say something


@slow
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14"])
def test_clip_from_a_published_file(name: str, tmp_path: Path) -> None:
    """Class vectors are the normalised text features of open_clip's own model; tests/teachers/test_text.py: narrow."""
    official = clip(name)
    path = publish_clip(tmp_path / "open_clip_model.safetensors", official)
    tokens = open_clip.get_tokenizer(name)(["a photo of a car", "a photo of a traffic light"])
    with torch.inference_mode():
        expected = F.normalize(official.encode_text(tokens), dim=-1)
    del official
    settings = {"sam": "tiny", "text": name, "text_checkpoint": str(path)}
    spec = ModelSpec(name="t", use="class_aware_sam", settings=settings)
    teacher = teachers.load(spec, ontology=ONTOLOGY, device="cpu")
    assert isinstance(teacher, SamTeacher)
    texts = teacher.answerer.texts
    assert texts is not None
    found = torch.stack([texts.vector(1, None), texts.vector(7, None)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found[0] @ found[1]).item() < 0.999  # the two names are told apart


def stage_outputs(variant: str, source: nn.Module, pixels: Tensor) -> list[Tensor]:
    """The four feature maps of a published classifier's backbone; Swin's with the plain norm that Mask2Former adds."""
    if variant == "r50":
        return list(source.resnet(pixels, output_hidden_states=True).hidden_states[1:])
    caught: list[Tensor] = []
    for stage in source.swin.encoder.layers:
        stage.blocks[-1].register_forward_hook(lambda _m, _i, out: caught.append(out[0]))
    source.swin(pixels)
    normed = [F.layer_norm(tokens, tokens.shape[-1:]) for tokens in caught]
    return [
        t.transpose(1, 2).unflatten(2, (side, side))
        for t, side in zip(normed, (112, 56, 28, 14), strict=True)
    ]


def lesson(folder: Path) -> tuple[list[Record], TrainContext]:
    """A photo with a square to learn, and what the engine lends to a job."""
    for name in ("work", "out"):
        (folder / name).mkdir()
    Image.fromarray(photo(64, 80)).save(folder / "1.png")
    mask = np.zeros((64, 80), bool)
    mask[10:40, 10:50] = True
    square = Instance(Source.HUMAN, 7, rle=masks.encode(mask))
    record = Record(
        1, "1.png", sha256(folder / "1.png"), 80, 64, "train", Role.HUMAN_MASKED, instances=(square,)
    )
    context = TrainContext(
        device="cpu",
        ontology=ONTOLOGY,
        images_root=folder,
        artifacts={},
        seed=0,
        workdir=folder / "work",
        out=folder / "out",
        progress=lambda *_: None,
        should_stop=lambda: False,
    )
    return [record], context


@slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("variant", "build"), [("r50", resnet_50), ("swin_t", swin_tiny)])
def test_mask2former_on_a_published_backbone(
    variant: str,
    build: Callable[[], nn.Module],
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A student is fitted, saved and opened again: its backbone answers as the published one, and it as before.

    The canvas is 128 px, not 1024, which would take gigabytes, and the one step is too small to move any weight.
    """
    monkeypatch.setitem(RECIPES, variant, replace(PAPER, size=128))
    source = build()
    path = publish_backbone(tmp_path / "hub", source, dtype)
    source.to(dtype).float()  # what the file holds
    settings = {"variant": variant, "weights": str(path), "steps": 1, "batch_size": 1, "lr": 1e-30}
    student = students.load(
        ModelSpec(name="s", use="mask2former", settings=settings), ontology=ONTOLOGY, device="cpu"
    )
    records, context = lesson(tmp_path)
    student.fit(records, context)
    opened = students.load_artifact(context.out, device="cpu")
    sample = Sample(records[0], photo(64, 80))
    (instances,) = opened.predict([sample])
    assert instances
    assert student.predict([sample]) == [instances]
    assert isinstance(opened, Mask2Former)
    assert opened._model is not None
    pixels = torch.randn(1, 3, 448, 448, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        found = opened._model.model.pixel_level_module.encoder(pixels).feature_maps
        for ours, theirs in zip(found, stage_outputs(variant, source, pixels), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


class Hostile:
    """What a pickle does that is not read safely."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (pytest.fail, ("the pickle ran",))


def hostile(path: Path) -> None:
    torch.save({"x": Hostile()}, path)


def blank_sam(build: Callable[[], Sam], path: Path) -> None:
    with torch.device("meta"):
        blank_pickle(path, build().state_dict())


def blank_clip(name: str, path: Path) -> None:
    with torch.device("meta"):
        blank_safetensors(
            path, open_clip.create_model(name, pretrained_text=False, device="meta").state_dict()
        )


def cut(make: Callable[[Path], None], path: Path) -> None:
    make(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


WRONG_SAM = [
    pytest.param("vit_b", partial(blank_sam, build_sam_vit_l), "do not fit SAM vit_b", id="vit_l as vit_b"),
    pytest.param("vit_l", partial(blank_sam, build_sam_vit_h), "do not fit SAM vit_l", id="vit_h as vit_l"),
    pytest.param("vit_h", partial(blank_sam, build_sam_vit_b), "do not fit SAM vit_h", id="vit_b as vit_h"),
    pytest.param(
        "vit_b", partial(cut, partial(blank_sam, build_sam_vit_b)), "not readable as weights", id="cut"
    ),
    pytest.param("vit_b", hostile, "not readable as weights", id="hostile"),
]


@pytest.mark.parametrize(("variant", "make", "message"), WRONG_SAM)
def test_wrong_sam_checkpoints(
    variant: str, make: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "sam.pth"
    make(path)
    settings = {"sam": variant, "checkpoint": str(path), "sha256": sha256(path)}
    with pytest.raises(BadInput, match=rf"checkpoint .*sam\.pth: .*{message}"):
        teachers.inspect(ModelSpec(name="t", use="sam", settings=settings))


@pytest.mark.parametrize(
    ("variant", "build"), [("vit_b", build_sam_vit_b), ("vit_l", build_sam_vit_l), ("vit_h", build_sam_vit_h)]
)
def test_the_published_names_and_shapes_fit(variant: str, build: Callable[[], Sam], tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    blank_sam(build, path)
    settings = {"sam": variant, "checkpoint": str(path), "sha256": sha256(path)}
    teachers.inspect(ModelSpec(name="t", use="sam", settings=settings))
