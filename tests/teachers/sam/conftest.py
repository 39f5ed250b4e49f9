"""The small SAM, and a tuning of it, as fixtures."""

from collections.abc import Callable, Iterator

import pytest
import torch
from safetensors.torch import load_file
from segment_anything.modeling import Sam
from small_models import build_small_sam
from tuning_cases import IDENTITY, ONTOLOGY, SETTINGS, Listed, Tuned, TwoNames

from pipeline.data.records import Record
from pipeline.engine.context import TrainContext
from teachers.answerer import Answerer
from teachers.class_texts import ClassTexts
from teachers.sam.predictor import SamPredictor
from teachers.sam.zoom import Zoom
from teachers.sam_teacher import SamTeacher
from teachers.settings import ClassAwareSettings


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
