"""A few scenes and an untrained tiny SAM."""

import pytest
import torch
from segment_anything.modeling import Sam
from tiny_scenes import COUNT, SEED, WORLD

from teachers.tiny.sam import build_tiny_sam
from teachers.tiny.scenes import SceneCache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> SceneCache:
    return SceneCache(tmp_path_factory.mktemp("scenes"), world=WORLD, seed=SEED, count=COUNT)


@pytest.fixture
def sam() -> Sam:
    torch.manual_seed(0)
    return build_tiny_sam()
