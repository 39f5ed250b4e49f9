"""The small SAM as fixtures."""

from collections.abc import Callable, Iterator

import pytest
import torch
from segment_anything.modeling import Sam
from small_models import build_small_sam


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and lose much where other work shares the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_sam() -> Sam:
    return build_small_sam()


@pytest.fixture
def make_sam() -> Callable[[int], Sam]:
    return build_small_sam
