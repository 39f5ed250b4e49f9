"""The tiny student's backbone: levels that know where they are, the same model however it is made."""

import pytest
import torch

from pipeline.toyworld.scene import render
from students.architecture import build
from students.layers import features
from students.tiny_backbone import COARSE_WAVES, FINE_WAVES, STAGES, TinyBackbone, TinyBackboneConfig
from teachers.tiny import listing
from teachers.tiny.pyramid import PYRAMID, STEM, STRIDES, Pyramid, normalise_pixels
from teachers.tiny.weights import load_weights


def test_levels_have_the_shapes_that_the_pixel_decoder_expects() -> None:
    backbone = TinyBackbone(TinyBackboneConfig())
    levels = features(backbone, torch.zeros(2, 64, 96, 3, dtype=torch.uint8))
    assert [tuple(level.shape) for level in levels] == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(backbone.channels, STRIDES, strict=True)
    ]
    assert backbone.channels == [STEM + FINE_WAVES**2, *[PYRAMID + COARSE_WAVES**2] * 3]


def test_a_level_is_what_the_grounder_sees_and_then_a_basis_of_places() -> None:
    weights = load_weights(listing.GROUNDER)
    pyramid, backbone = Pyramid(), TinyBackbone(TinyBackboneConfig())
    own = {name: weights[name] for name in pyramid.state_dict()}
    for module in (pyramid, backbone.pyramid):
        module.load_state_dict(own)
        module.train(False)
    image = torch.from_numpy(render("demo", 2_400_000, 0).image.copy())[None]
    with torch.no_grad():
        seen = pyramid.levels(normalise_pixels(image).permute(0, 3, 1, 2))
        found = features(backbone, image)
    for level, same in zip(found, seen, strict=True):
        torch.testing.assert_close(level[:, : same.shape[1]], same, rtol=1e-3, atol=1e-3)
        place = level[0, same.shape[1] :].flatten(1).double()
        gram = place @ place.T / place.shape[1]
        off = gram - torch.diag(gram.diagonal())
        assert off.abs().max() < 1e-3  # waves that share nothing, so that any smooth mask is a sum of them
        assert (place.std(1)[1:] > 0.5).all()


def test_a_new_backbone_begins_as_torch_has_it_and_learns() -> None:
    torch.manual_seed(0)
    found = build("tiny", 3).model.pixel_level_module.encoder
    torch.manual_seed(0)
    plain = Pyramid()
    assert found.state_dict().keys() == {f"pyramid.{name}" for name in plain.state_dict()}
    spread = found.pyramid.stem[0][0].weight.std() / plain.stem[0][0].weight.std()
    assert 0.8 < spread < 1.25
    levels = features(found.train(), torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8))
    torch.autograd.backward(torch.stack([level.square().mean() for level in levels]).sum())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in found.parameters() if p.ndim == 4)


@pytest.mark.parametrize("other", [{"out_features": ["stage4"]}, {"out_indices": [3]}])
def test_other_outputs_are_refused(other: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        TinyBackboneConfig(**other)
    again = TinyBackboneConfig.from_dict(TinyBackboneConfig().to_dict())
    assert again.out_features == STAGES
