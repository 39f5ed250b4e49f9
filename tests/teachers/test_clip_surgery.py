"""CLIP Surgery: the original path is open_clip's own, the new one and the maps are what the paper writes down."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, resize_pos_embed, set_model_preprocess_cfg
from open_clip.transformer import Transformer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.errors import BadInput
from teachers.clip_paths import DualPath, Features, value_attention
from teachers.clip_surgery import (
    ClipSurgery,
    Preprocess,
    against_each_other,
    against_nothing,
    load_surgery,
    spread,
)
from teachers.text import TextEncoder, load_clip
from teachers.tiny.evaluate_surgery import INPUT_SIZE, auc, evaluate
from teachers.tiny.text import PIXEL_MEAN, PIXEL_STD

SMALL: dict[str, object] = {"layers": 3, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32}
MODELS: dict[str, tuple[dict[str, object], bool]] = {
    "plain": ({}, False),
    "quick gelu": ({}, True),
    "layer scale": ({"ls_init_value": 0.3}, False),
    "no first norm": ({"no_ln_pre": True, "final_ln_after_pool": True}, False),
    "more blocks than are dual": ({"layers": 8}, False),
}
REAL = ["ViT-B-32", "ViT-B-32-quickgelu", "ViT-B-16", "ViT-L-14"]


def build(vision: dict[str, object], *, quick_gelu: bool = False, width: int = 16) -> CLIP:
    """A CLIP of random weights, where none is left at zero or one."""
    torch.manual_seed(3)
    text = CLIPTextCfg(context_length=8, vocab_size=64, width=16, heads=2, layers=1)
    model = CLIP(width, CLIPVisionCfg(**vision), text, quick_gelu=quick_gelu)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.visual.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    set_model_preprocess_cfg(model, {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "size": 32})
    return model.eval().requires_grad_(False)


def noise(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(8))


def some_texts(width: int = 16) -> TextEncoder:
    """A vector of its own for each name, and for none."""

    def embed(name: str) -> Tensor:
        return torch.randn(width, generator=torch.Generator().manual_seed(sum(name.encode())))

    return TextEncoder(embed)


def check_whole(model: CLIP, pixels: Tensor) -> None:
    expected = model.encode_image(pixels, normalize=True)
    torch.testing.assert_close(DualPath(model.visual)(pixels).whole, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("vision", "quick_gelu"), MODELS.values(), ids=MODELS)
def test_the_original_path_is_open_clips(vision: dict[str, object], quick_gelu: bool) -> None:
    check_whole(build({**SMALL, **vision}, quick_gelu=quick_gelu), noise(32, 32))


def test_the_original_path_of_the_embedded_tower() -> None:
    check_whole(load_clip()[0], noise(64, 64))


def of_real_id(name: str, **fewer: object) -> CLIP:
    config = open_clip.get_model_config(name)
    assert config is not None
    return build(
        {**config["vision_cfg"], **fewer},
        quick_gelu=config.get("quick_gelu", False),
        width=config["embed_dim"],
    )


@pytest.mark.parametrize("name", REAL)
def test_real_ids_cut_to_two_blocks(name: str) -> None:
    check_whole(of_real_id(name, layers=2), noise(224, 224, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_ids(name: str) -> None:
    model = of_real_id(name)
    check_whole(model, noise(224, 224, 1))
    side = model.visual.patch_size[0]
    found = DualPath(model.visual)(noise(3 * side, 5 * side, 1))
    assert found.patches.shape == (1, 3, 5, model.visual.output_dim)


def test_a_tower_with_the_batch_second() -> None:
    model = build(SMALL)
    expected = DualPath(model.visual, blocks=2)(noise(32, 32))
    second = Transformer(32, 3, 4, batch_first=False).eval()
    second.load_state_dict(model.visual.transformer.state_dict())
    model.visual.transformer = second
    found = DualPath(model.visual, blocks=2)(noise(32, 32))
    torch.testing.assert_close(found.whole, expected.whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.patches, expected.patches, atol=1e-5, rtol=0)


def slow_value_attention(block: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Of tokens (N, C), head by head and row by row."""
    heads, width = block.attn.num_heads, tokens.shape[1]
    weight, bias = block.attn.in_proj_weight[-width:], block.attn.in_proj_bias[-width:]
    size = width // heads
    mixed = torch.zeros_like(tokens)
    for head in range(heads):
        rows = slice(head * size, (head + 1) * size)
        values = tokens @ weight[rows].T + bias[rows]
        for row, value in enumerate(values):
            likeness = torch.exp(values @ value / math.sqrt(size))
            mixed[row, rows] = (likeness / likeness.sum()) @ values
    return mixed @ block.attn.out_proj.weight.T + block.attn.out_proj.bias


def test_attention_of_values_by_hand() -> None:
    (block, *_) = build(SMALL).visual.transformer.resblocks
    tokens = torch.randn(2, 5, 32)
    expected = torch.stack([slow_value_attention(block, one) for one in tokens])
    torch.testing.assert_close(value_attention(block.attn, tokens), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("blocks", [1, 2, 3, 6])
def test_the_new_path_by_hand(blocks: int, scale: float | None) -> None:
    """Starts where the last `blocks` do, reads the original one, has no MLP; the class token's is not taken."""
    visual = build({**SMALL, "ls_init_value": scale}).visual
    (pixels,) = noise(32, 32, 1)
    tokens = visual._embeds(pixels[None])[0]
    new = None
    for index, block in enumerate(visual.transformer.resblocks):
        if index >= 3 - blocks:
            new = tokens if new is None else new
            new = new + block.ls_1(slow_value_attention(block, block.ln_1(tokens)))
        tokens = block(tokens[None])[0]
    assert new is not None
    expected = F.normalize(visual.ln_post(new[1:]) @ visual.proj, dim=-1).reshape(4, 4, 16)
    (found,) = DualPath(visual, blocks=blocks)(pixels[None]).patches
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 72), (16, 24)])
def test_other_sizes_are_as_if_loaded_so_by_open_clip(height: int, width: int) -> None:
    model = build(SMALL)
    resized = build({**SMALL, "image_size": (height, width)})
    state = model.state_dict()
    resize_pos_embed(state, resized)
    resized.load_state_dict(state)
    pixels = noise(height, width)
    expected, found = DualPath(resized.visual)(pixels), DualPath(model.visual)(pixels)
    torch.testing.assert_close(found.whole, resized.encode_image(pixels, normalize=True), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.patches, expected.patches, atol=1e-5, rtol=0)
    assert found.patches.shape == (2, height // 8, width // 8, 16)


def test_positions_of_one_column_are_weighed_rows() -> None:
    """torch 2.15 gets this wrong where channels lie last; double numbers that do not."""
    model = build(SMALL)
    own = model.visual.positional_embedding.double()
    places = own[1:].reshape(4, 4, 32).permute(2, 0, 1)[None].contiguous()
    resized = F.interpolate(places, (2, 1), mode="bicubic", antialias=True, align_corners=False)
    expected = torch.cat([own[:1], resized[0, :, :, 0].T]).float()
    found = DualPath(model.visual)._positions((2, 1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_without_surgery_the_patches_are_open_clips() -> None:
    model, pixels = build(SMALL), noise(32, 32)
    tokens = model.visual.ln_post(model.visual.transformer(model.visual._embeds(pixels))) @ model.visual.proj
    found = DualPath(model.visual, blocks=0)(pixels)
    expected = F.normalize(tokens[:, 1:], dim=-1).reshape(2, 4, 4, 16)
    torch.testing.assert_close(found.patches, expected, atol=1e-5, rtol=0)


def some_features() -> tuple[Features, Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(1)
    whole, patches, text, empty = (
        F.normalize(torch.randn(*shape, generator=numbers), dim=-1)
        for shape in ((2, 6), (2, 3, 4, 6), (5, 6), (6,))
    )
    return Features(whole, patches), text, empty


def test_one_class_by_hand() -> None:
    features, text, empty = some_features()
    found = against_nothing(features, text, empty).numpy()
    for b, k, y, x in np.ndindex(2, 5, 3, 4):
        patch = features.patches[b, y, x].numpy()
        assert found[b, k, y, x] == pytest.approx(patch @ (text[k] - empty).numpy(), abs=1e-6)


def test_many_classes_by_hand() -> None:
    features, text, _ = some_features()
    found, texts = against_each_other(features, text).numpy(), text.numpy()
    for b in range(2):
        likely = np.exp(2 * texts @ features.whole[b].numpy())
        weights = likely / likely.sum()
        weights = weights / weights.mean()
        for y, x in np.ndindex(3, 4):
            products = features.patches[b, y, x].numpy() * texts * weights[:, None]  # (K, d)
            expected = (products - products.mean(0)).sum(1)
            np.testing.assert_allclose(found[b, :, y, x], expected, atol=1e-6)


def test_maps_go_from_0_to_1_and_a_flat_one_says_nothing() -> None:
    ramp = torch.arange(6.0).reshape(2, 3)
    rounding = 7 + 1e-7 * torch.rand(2, 3)
    found = spread(torch.stack([ramp - 3, 1e-3 * ramp, torch.full((2, 3), 7.0), rounding])[None])[0]
    for one in found[:2]:
        torch.testing.assert_close(one, ramp / 5)
    assert found[2:].unique().tolist() == [0.5]


def test_a_map_of_one_patch_or_of_equal_names_is_flat() -> None:
    surgery = ClipSurgery(build(SMALL), some_texts(), input_size=8)
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    np.testing.assert_allclose(surgery.maps([image], ["a"], size=(5, 6)), 0.5, atol=1e-6)
    surgery = ClipSurgery(build(SMALL), some_texts())
    assert (surgery.maps([image], ["a", "a"]) == 0.5).all()


def pictures() -> list[npt.NDArray[np.uint8]]:
    numbers = np.random.default_rng(4)
    return [numbers.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((50, 60), (32, 32))]


@pytest.mark.parametrize(("names", "apart"), [(["car"], False), (["car", "a"], True), (["car", "a"], False)])
def test_the_whole_way_of_a_picture(names: list[str], apart: bool) -> None:
    """Squeezed and normalised as the model says, scored, spread over its patches, brought to the wanted size."""
    model, texts = build(SMALL), some_texts()
    found = ClipSurgery(model, texts, blocks=2, input_size=(24, 40)).maps(
        pictures(), names, size=(12, 10), apart=apart
    )
    assert (found.shape, found.dtype) == ((2, len(names), 12, 10), np.float32)
    squeezed = [Image.fromarray(p).resize((40, 24), Image.Resampling.BICUBIC) for p in pictures()]
    pixels = (np.stack([np.asarray(s) for s in squeezed]) / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    features = DualPath(model.visual, blocks=2)(torch.from_numpy(pixels).float().permute(0, 3, 1, 2))
    text = torch.from_numpy(texts.encode(names))
    if len(names) == 1 or apart:
        scores = against_nothing(features, text, torch.from_numpy(texts.nothing()))
    else:
        scores = against_each_other(features, text)
    expected = F.interpolate(spread(scores), (12, 10), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_maps_are_of_patches_unless_a_size_is_wanted() -> None:
    found = ClipSurgery(build(SMALL), some_texts()).maps(pictures(), ["car", "a", "b"])
    assert found.shape == (2, 3, 4, 4)
    assert found.min((2, 3)).tolist() == [[0.0] * 3] * 2
    assert found.max((2, 3)).tolist() == [[1.0] * 3] * 2


def test_how_pixels_are_normalised() -> None:
    assert Preprocess.of(load_clip()[0]) == Preprocess(
        (PIXEL_MEAN,) * 3, (PIXEL_STD,) * 3, Image.Resampling.BILINEAR
    )
    white = np.full((9, 7, 3), 255, np.uint8)
    own = Preprocess((0.5, 0.25, 0.0), (0.5, 1.0, 2.0))
    found = own(white, (4, 6))
    assert (found.shape, found.dtype) == ((3, 4, 6), torch.float32)
    assert found[:, 0, 0].tolist() == [1.0, 0.75, 0.5]
    model, texts = build(SMALL), some_texts()
    given = ClipSurgery(model, texts, preprocess=own).features(pictures())
    assert not torch.equal(given.whole, ClipSurgery(model, texts).features(pictures()).whole)


def test_the_model_stays_as_it_is() -> None:
    model, texts = load_clip()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pixels, size = noise(64, 64), model.visual.positional_embedding.shape
    expected = model.encode_image(pixels)
    ClipSurgery(model, texts, input_size=(96, 128)).maps(pictures(), ["car", "boat"])
    torch.testing.assert_close(model.encode_image(pixels), expected, atol=0, rtol=0)
    assert model.visual.positional_embedding.shape == size
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


TOKENS = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, CLIP, Path]:
    """An open_clip model by its name, built by open_clip, and its weights."""
    name, folder = "ViT-small-for-surgery", tmp_path_factory.mktemp("clip")
    config = {"embed_dim": 16, "vision_cfg": SMALL, "text_cfg": TOKENS, "quick_gelu": True}
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(5)
    model = open_clip.create_model(name).eval()
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "w.safetensors"
    )
    return name, model, folder / "w.safetensors"


def test_a_saved_model_gives_the_maps_it_gave_before(saved: tuple[str, CLIP, Path]) -> None:
    name, model, path = saved
    loaded, texts = load_clip(name, checkpoint=path)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    torch.testing.assert_close(loaded.encode_image(noise(32, 32)), model.encode_image(noise(32, 32)))
    found = load_surgery(name, checkpoint=path, input_size=64).maps(pictures(), ["car", "a_b"])
    expected = ClipSurgery(model, texts, input_size=64).maps(pictures(), ["car", "a_b"])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert Preprocess.of(loaded).mean == open_clip.OPENAI_DATASET_MEAN


@pytest.mark.parametrize("word", ["traffic_light", ""])
def test_texts_are_the_mean_of_85_prompts(saved: tuple[str, CLIP, Path], word: str) -> None:
    name, model, path = saved
    texts = load_clip(name, checkpoint=path)[1]
    words = word.replace("_", " ")
    prompts = [template(words) for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    prompts += [f"{start} {words} in the scene." for start in ("there is a", "there is the", "this is a")]
    prompts += [f"{start} {words} in the scene." for start in ("this is the", "this is one")]
    assert len(prompts) == 85
    with torch.no_grad():
        every = model.encode_text(open_clip.get_tokenizer(name)(prompts), normalize=True)
    expected = F.normalize(every.mean(0), dim=-1).numpy()
    found = texts.encode([word])[0] if word else texts.nothing()
    np.testing.assert_allclose(found, expected, atol=1e-6)


TOWERS: dict[str, tuple[dict[str, object], str]] = {
    "ResNet": ({"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "head_width": 8}, "a ModifiedResNet"),
    "timm": ({"timm_model_name": "resnet10t", "image_size": 32}, "a TimmModel"),
    "mean of patches": ({**SMALL, "pool_type": "avg"}, "pooled of patches"),
    "attention over patches": ({**SMALL, "attentional_pool": True}, "pooled of patches"),
    "other attention": ({**SMALL, "qk_norm": True}, "CustomResidualAttentionBlock"),
}


@pytest.mark.parametrize(("vision", "message"), TOWERS.values(), ids=TOWERS)
def test_towers_without_two_paths(vision: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=f"expected a vision transformer.*{message}"):
        ClipSurgery(build(vision), some_texts())


def surgery() -> ClipSurgery:
    return ClipSurgery(build(SMALL), some_texts())


def unsaid() -> ClipSurgery:
    model = build(SMALL)
    for name in ("preprocess_cfg", "image_mean", "image_std"):
        delattr(model.visual, name)
    return ClipSurgery(model, some_texts())


GREY = np.zeros((4, 4), np.uint8)
FLOATS = np.zeros((4, 4, 3), np.float32)
FAULTS: dict[str, tuple[Callable[[], object], type[ValueError], str]] = {
    "no names": (lambda: surgery().maps(pictures(), []), ValueError, "no names"),
    "a blank name": (lambda: surgery().maps(pictures(), ["car", " "]), BadInput, "blank"),
    "an empty name": (lambda: surgery().maps(pictures(), [""]), BadInput, "blank"),
    "no images": (lambda: surgery().maps([], ["car"]), ValueError, "no images"),
    "grey": (lambda: surgery().maps([GREY], ["car"]), ValueError, r"got \(4, 4\) of uint8"),
    "floats": (lambda: surgery().maps([FLOATS], ["car"]), ValueError, "of float32"),  # type: ignore[list-item]
    "too few blocks": (lambda: DualPath(build(SMALL).visual, blocks=-1), ValueError, "0 blocks or more"),
    "broken patches": (
        lambda: ClipSurgery(build(SMALL), some_texts(), input_size=(32, 36)),
        ValueError,
        "whole 8x8 patches, got 32x36",
    ),
    "broken patches of pixels": (lambda: DualPath(build(SMALL).visual)(noise(30, 32)), ValueError, "30x32"),
    "no size": (lambda: ClipSurgery(build(SMALL), some_texts(), input_size=0), ValueError, "got 0x0"),
    "in training": (lambda: DualPath(build(SMALL).train().visual)(noise(32, 32)), ValueError, "eval mode"),
    "unsaid pixels": (unsaid, BadInput, "does not say how its pixels"),
}


@pytest.mark.parametrize(("ask", "kind", "message"), FAULTS.values(), ids=FAULTS)
def test_what_is_refused(ask: Callable[[], object], kind: type[ValueError], message: str) -> None:
    with pytest.raises(kind, match=message):
        ask()


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [
        ([3, 4], [1, 2], 1.0),
        ([1], [2, 3], 0.0),
        ([1, 1], [1, 1, 1], 0.5),
        ([1, 3], [2], 0.5),
        ([2, 3], [2, 1], 0.875),
    ],
)
def test_auc(inside: list[float], outside: list[float], expected: float) -> None:
    assert auc(np.float32(inside), np.float32(outside)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="inside and outside, got 0 and"):
        auc(np.float32([]), np.float32(outside))


def test_maps_of_the_embedded_tower_are_higher_on_their_objects() -> None:
    found = evaluate(load_surgery(input_size=INPUT_SIZE), scenes=8)
    assert found["objects"] > 20
    assert found["alone"] > 0.5
    assert found["together"] > 0.5
