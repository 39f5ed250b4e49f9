"""Checkpoints: the official format loads with its digest; everything else is refused with the file's name."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from segment_anything.modeling import Sam

from pipeline.data.errors import BadInput
from teachers.sam import load
from teachers.sam.attention import FastAttention
from teachers.sam.load import inspect_sam, load_sam


@pytest.fixture
def small_variant(monkeypatch: pytest.MonkeyPatch, make_sam: Callable[[int], Sam]) -> Sam:
    """The small SAM stands for ViT-B, so that a file of it takes milliseconds."""
    monkeypatch.setitem(load.BUILDERS, "vit_b", lambda: make_sam(1))
    return make_sam(0)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_pth(sam: Sam, path: Path) -> Path:
    torch.save(sam.state_dict(), path)
    return path


def same_weights(a: Sam, b: Sam) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_official_format_with_its_digest(small_variant: Sam, tmp_path: Path) -> None:
    path = save_pth(small_variant, tmp_path / "sam.pth")
    sam = load_sam("vit_b", path, sha256=sha256(path).upper())
    assert same_weights(sam, small_variant)
    assert not sam.training
    assert not any(value.requires_grad for value in sam.parameters())
    assert all(isinstance(block.attn, FastAttention) for block in sam.image_encoder.blocks)


def test_safetensors_need_no_digest_and_attention_can_stay(small_variant: Sam, tmp_path: Path) -> None:
    path = tmp_path / "sam.safetensors"
    save_file(small_variant.state_dict(), path)
    sam = load_sam("vit_b", path, attention="official")
    assert same_weights(sam, small_variant)
    assert not any(isinstance(block.attn, FastAttention) for block in sam.image_encoder.blocks)


def test_published_digest_is_asked_for_by_default(small_variant: Sam, tmp_path: Path) -> None:
    path = save_pth(small_variant, tmp_path / "sam_vit_b.pth")
    with pytest.raises(BadInput, match=r"sam_vit_b.pth: its sha256 is .*, expected ec2df627"):
        load_sam("vit_b", path)


class Evil:
    """What a hostile pickle does when it is read."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (pytest.fail, ("the pickle ran",))


def test_a_pickle_never_runs_even_with_the_right_digest(small_variant: Sam, tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"x": Evil(), **small_variant.state_dict()}, path)
    with pytest.raises(BadInput, match=r"evil.pt: not readable as weights"):
        load_sam("vit_b", path, sha256=sha256(path))


def write(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("none.safetensors", lambda _: None, "no such file"),
        ("sam.bin", write(b"x"), "expected a .safetensors, .pth or .pt file"),
        ("sam.safetensors", write(b"not tensors"), "not readable as weights"),
        ("sam.safetensors", lambda path: save_file({"x": torch.zeros(1)}, path), "do not fit SAM vit_b"),
        ("sam.pth", write(b"not a pickle"), "its sha256 is"),
    ],
)
@pytest.mark.usefixtures("small_variant")
def test_refused_files(tmp_path: Path, name: str, make: Callable[[Path], None], message: str) -> None:
    path = tmp_path / name
    make(path)
    for look in (load_sam, inspect_sam):
        with pytest.raises(BadInput, match=f"checkpoint .*{name}: .*{message}"):
            look("vit_b", path)


@pytest.mark.parametrize("kept", [0, 1000, 100_000])
def test_damaged_pickle_with_its_digest(small_variant: Sam, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(save_pth(small_variant, tmp_path / "whole.pth").read_bytes()[:kept])
    with pytest.raises(BadInput, match=r"cut.pth: not readable as weights: \w"):
        load_sam("vit_b", path, sha256=sha256(path))


def test_a_pickle_of_before_torch_1_6(small_variant: Sam, tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(small_variant.state_dict(), path, _use_new_zipfile_serialization=False)
    assert same_weights(load_sam("vit_b", path, sha256=sha256(path)), small_variant)


def test_a_look_takes_what_loads(small_variant: Sam, tmp_path: Path) -> None:
    path = save_pth(small_variant, tmp_path / "sam.pth")
    inspect_sam("vit_b", path, sha256=sha256(path))
    inspect_sam("tiny")


def test_half_weights_become_float32(small_variant: Sam, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({name: value.half() for name, value in small_variant.state_dict().items()}, path)
    loaded = load_sam("vit_b", path)
    assert same_weights(loaded, small_variant.half().float())
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}


def test_tiny_pickle_without_a_known_digest(small_variant: Sam, tmp_path: Path) -> None:
    path = save_pth(small_variant, tmp_path / "tiny.pt")
    with pytest.raises(BadInput, match="needs its sha256"):
        load_sam("tiny", path)


def test_real_variants_need_a_checkpoint() -> None:
    with pytest.raises(BadInput, match="vit_l needs `checkpoint`"):
        load_sam("vit_l")
