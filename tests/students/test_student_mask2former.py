"""The student as a whole: it learns, predicts at the image's size, resumes to the bit, and loads what it saved."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from little_pictures import HEIGHT, ONTOLOGY, WIDTH, draw
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.data.errors import BadInput
from pipeline.data.images import read_upright
from pipeline.data.masks import area, decode, encode, iou_matrix, tight_box
from pipeline.data.records import Category, Ontology, Source
from pipeline.engine.stage import Stopped
from pipeline.engine.states import last_state
from students import mask2former
from students.architecture import build
from students.card import Card, write_card
from students.inference import to_instances
from students.mask2former import Mask2Former, open_artifact
from students.settings import RECIPES, TINY, Mask2FormerSettings
from students.weights import load_embedded, load_weights
from teachers.checkpoint import CHECKPOINT
from teachers.pool import Loader
from teachers.protocols import Sample
from teachers.tiny import weights as embedded_weights
from teachers.tiny.listing import STUDENT
from teachers.window import fitted_window


@pytest.fixture(autouse=True)
def _small_canvas(monkeypatch):
    """Half the tiny variant's canvas: a quarter of the time."""
    monkeypatch.setitem(RECIPES, "tiny", replace(TINY, size=128))


def student(**settings):
    return Mask2Former(Mask2FormerSettings(**settings), ontology=ONTOLOGY, device="cpu")


def sample_of(record, images):
    return Sample(record, read_upright(images / record.uri).image)


def test_learns_two_pictures_and_loads_what_it_saved(images, make_context):
    records = [draw(1, images), draw(2, images)]
    context = make_context("run")
    learner = student(steps=60, batch_size=2)
    metrics = learner.fit(records, context)
    assert metrics["steps"] == 60
    assert metrics["images"] == 2
    assert metrics["loss_last"] < 0.4 * metrics["loss_first"]
    losses = json.loads((context.out / "loss.json").read_text())
    assert len(losses) == 60

    samples = [sample_of(record, images) for record in records]
    found = learner.predict(samples)
    for record, instances in zip(records, found, strict=True):
        assert {instance.rle.size for instance in instances} == {(HEIGHT, WIDTH)}
        for truth in record.instances:
            best = next(i for i in instances if i.class_id == truth.class_id)
            assert iou_matrix([best.rle], [truth.rle])[0, 0] > 0.5
    again = open_artifact(context.out, device="cpu")
    assert again.ontology == ONTOLOGY
    assert again.predict(samples) == found
    assert again.predict(samples[1:]) == found[1:]  # no neighbour matters
    assert learner.predict([]) == []


def test_the_same_bits_after_a_stop_and_from_the_same_seed(images, make_context):
    records = [draw(index, images) for index in (1, 2, 3)]
    whole = make_context("whole")
    student(steps=4, batch_size=2).fit(records, whole)
    parts = make_context("parts", stop_after=2)
    with pytest.raises(Stopped, match="step 2 of 4"):
        student(steps=4, batch_size=2).fit(records, parts)
    assert not list(parts.out.iterdir())
    metrics = student(steps=4, batch_size=2).fit(records, make_context("parts"))
    assert metrics["steps"] == 4
    for name in ("model.safetensors", "student.json", "loss.json"):
        assert (whole.out / name).read_bytes() == (parts.out / name).read_bytes()
    other = make_context("other", seed=1)
    student(steps=4, batch_size=2).fit(records, other)
    assert (whole.out / "loss.json").read_bytes() != (other.out / "loss.json").read_bytes()


def test_states_are_saved_as_often_as_asked_and_that_changes_no_bit(images, make_context):
    """A killed training goes on from a state saved at another rhythm, and its artifact does not tell the rhythm."""

    class Killed(Exception):
        """Stands for a kill: no chance to save."""

    def kill(step, _total, note):
        if note.startswith("loss") and step == 2:
            raise Killed

    records = [draw(index, images) for index in (1, 2, 3)]
    killed = make_context("killed")
    with pytest.raises(Killed):
        student(steps=3, batch_size=2, checkpoint_every=1).fit(records, replace(killed, progress=kill))
    with safe_open(last_state(killed.workdir, CHECKPOINT), "pt") as file:
        assert len(json.loads(file.metadata()["losses"])) == 1
    student(steps=3, batch_size=2, checkpoint_every=3).fit(records, killed)
    whole = make_context("whole")
    student(steps=3, batch_size=2).fit(records, whole)
    for name in ("model.safetensors", "student.json", "loss.json"):
        assert (whole.out / name).read_bytes() == (killed.out / name).read_bytes()


def test_a_checkpoint_of_other_settings_is_refused(images, make_context):
    context = make_context("run", stop_after=1)
    with pytest.raises(Stopped):
        student(steps=4, batch_size=1).fit([draw(1, images)], context)
    with pytest.raises(BadInput, match=CHECKPOINT):
        student(steps=5, batch_size=1).fit([draw(1, images)], make_context("run"))


def test_training_leaves_the_random_numbers_of_others_alone(images, make_context):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    student(steps=1, batch_size=1).fit([draw(1, images)], make_context("run"))
    assert torch.equal(torch.rand(3), expected)


def test_a_new_student_predicts_nothing(images):
    with pytest.raises(RuntimeError, match="fit it or load"):
        student().predict([sample_of(draw(1, images), images)])


@pytest.mark.parametrize("shape", [(256, 256), (100, 333), (400, 90)])
def test_instances_lie_where_the_logits_say_at_the_images_size(shape):
    window = fitted_window(shape, 256)
    logits = torch.full((2, 64, 64), -6.0)
    shown = np.array([window.height, window.width]) / 4
    logits[0, : int(shown[0] / 2), : int(shown[1])] = 6.0  # the upper half of the image
    classes = torch.tensor([[0.0, 5.0, 0.0], [1.0, 0.0, 9.0]])
    found = to_instances(classes, logits, window=window, size=256, class_ids=(3, 7))
    assert [(i.class_id, i.source) for i in found] == [(7, Source.STUDENT), (3, Source.STUDENT)]
    best = found[0]
    assert best.rle.size == shape
    assert area(best.rle) == pytest.approx(shape[0] * shape[1] / 2, rel=0.07)
    assert not decode(best.rle)[int(0.55 * shape[0]) :].any()
    assert best.box_xyxy == tight_box(best.rle)
    probability = torch.tensor([0.0, 5.0, 0.0]).softmax(0)[1].item()
    assert 0.95 * probability < best.score < probability


def test_a_score_is_the_mean_probability_within_the_mask():
    torch.manual_seed(0)
    logits = 3 * torch.randn(4, 16, 16)
    logits[2] = -1.0  # finds nothing
    window = fitted_window((50, 64), 64)
    classes = torch.eye(5)[:4] * 9
    found = to_instances(classes, logits, window=window, size=64, class_ids=(10, 11, 12, 13))
    assert len(found) == 3 * 4
    probabilities = classes.softmax(-1)
    scaled = torch.nn.functional.interpolate(logits[None], (64, 64), mode="bilinear", align_corners=False)[
        :, :, : window.height, : window.width
    ]
    scaled = torch.nn.functional.interpolate(scaled, (50, 64), mode="bilinear", align_corners=False)[0]
    for query in (0, 1, 3):
        inside = scaled[query] > 0
        best = max((i for i in found if i.class_id == 10 + query), key=lambda i: i.score)
        assert best.rle == encode(inside.numpy())
        mean = scaled[query].double().sigmoid()[inside].mean()
        assert best.score == pytest.approx(float(probabilities[query, query] * mean), abs=1e-7)


def test_at_most_a_hundred_detections_best_first():
    torch.manual_seed(0)
    found = to_instances(
        torch.randn(30, 11),
        torch.randn(30, 16, 16),
        window=fitted_window((32, 32), 64),
        size=64,
        class_ids=range(10),
    )
    assert len(found) == 100
    scores = [instance.score for instance in found]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("whole", [True, False], ids=["whole model", "backbone alone"])
def test_weights_come_from_a_local_file(tmp_path, whole):
    torch.manual_seed(1)
    donor = build("tiny", 9)
    encoder = donor.model.pixel_level_module.encoder
    save_file((donor if whole else encoder).state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(2)
    fresh = build("tiny", 2)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    loaded = load_weights(fresh, tmp_path / "weights.safetensors").state_dict()
    given = donor.state_dict()
    prefix = "model." if whole else "model.pixel_level_module.encoder."
    for name, tensor in loaded.items():
        assert torch.equal(tensor, given[name] if name.startswith(prefix) else before[name]), name


def test_a_tiny_student_starts_from_the_embedded_weights():
    embedded = embedded_weights.load_weights(STUDENT)
    torch.manual_seed(3)
    fresh = build("tiny", 4)
    head = fresh.class_predictor.weight.clone()
    loaded = load_embedded(fresh)
    for name, tensor in loaded.state_dict().items():
        if name.startswith("model."):
            assert torch.equal(tensor, embedded[name]), name
    assert torch.equal(loaded.class_predictor.weight, head)
    starts = [student(steps=1, **settings)._new_model(0) for settings in ({}, {"from_scratch": True})]
    norms = [model.model.pixel_level_module.encoder.pyramid.stem[0][1].weight for model in starts]
    assert not torch.equal(*norms)


def test_embedded_weights_of_another_architecture_are_refused(monkeypatch):
    monkeypatch.setattr(
        embedded_weights, "load_weights", lambda _: {"model.pixel_level_module.encoder.x": torch.zeros(2)}
    )
    with pytest.raises(BadInput, match=f"weights: {STUDENT}: .* missing or of another shape"):
        load_embedded(build("tiny", 2))


def test_pretrained_batch_statistics_stay(images, make_context, tmp_path):
    torch.manual_seed(1)
    encoder = build("tiny", 2).model.pixel_level_module.encoder
    save_file(encoder.state_dict(), tmp_path / "weights.safetensors")
    context = make_context("run")
    learner = student(steps=1, batch_size=1, weights=tmp_path / "weights.safetensors")
    learner.recipe = replace(learner.recipe, frozen_norm=True)
    learner.fit([draw(1, images)], context)
    trained = load_file(context.out / "model.safetensors")
    prefix = "model.pixel_level_module.encoder."
    norms = {name for name, module in encoder.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    for name, tensor in encoder.state_dict().items():
        kept = torch.equal(trained[prefix + name], tensor)
        assert kept is (name.rpartition(".")[0] in norms), name
    assert "weights" not in json.loads((context.out / "student.json").read_text())["settings"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"not safetensors", "not a safetensors file"),
        ({"pyramid.stem.0.0.weight": torch.zeros(2, 2)}, "missing or of another shape"),
        ({"model.pixel_level_module.encoder.x": torch.zeros(2)}, "missing or of another shape"),
    ],
    ids=["missing", "garbage", "other backbone", "other model"],
)
def test_bad_weights_are_refused_by_name(images, make_context, tmp_path, content, message):
    path = tmp_path / "weights.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file(content, path)
    with pytest.raises(BadInput, match=f"{path}.*{message}"):
        student(steps=1, weights=path).fit([draw(1, images)], make_context("run"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "student.json").unlink(), "expected a student's card"),
        (lambda folder: (folder / "student.json").write_text("{}"), "not a student's card"),
        (lambda folder: (folder / "model.safetensors").unlink(), "not a Mask2Former student's artifact"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
            "not a Mask2Former student's artifact",
        ),
        (lambda folder: save_file({"x": torch.zeros(1)}, folder / "model.safetensors"), "not a Mask2Former"),
    ],
)
def test_broken_artifacts_are_refused(images, make_context, damage, message):
    context = make_context("run")
    student(steps=1, batch_size=1).fit([draw(1, images)], context)
    damage(context.out)
    with pytest.raises(BadInput, match=message):
        open_artifact(context.out, device="cpu")


def test_an_artifact_of_a_pretrained_backbone_opens_without_its_file(tmp_path):
    save_file(build("r50", 2).state_dict(), tmp_path / "model.safetensors")
    write_card(Card(use="mask2former", settings={"variant": "r50"}, categories=ONTOLOGY.categories), tmp_path)
    assert open_artifact(tmp_path, device="cpu").recipe.size == 1024


def test_bad_records_are_refused(images, make_context):
    wrong = Mask2Former(Mask2FormerSettings(steps=1), ontology=Ontology((Category(1, "disc"),)), device="cpu")
    with pytest.raises(BadInput, match="class id 3 is not in the ontology"):
        wrong.fit([draw(1, images)], make_context("run"))
    lost = replace(draw(1, images), uri="lost.png")
    with pytest.raises(BadInput, match=r"lost\.png"):
        student(steps=1, batch_size=1).fit([lost], make_context("run"))


@pytest.mark.parametrize("weights", [False, True])
def test_masks_are_trusted_as_the_settings_say(images, make_context, monkeypatch, weights):
    """What it does with targets and losses: test_student_data and test_student_criterion."""
    seen = []

    class Watched(Loader):
        def __init__(self, **given):
            seen.append(given["trust_weights"])
            super().__init__(**given)

    monkeypatch.setattr(mask2former, "Loader", Watched)
    learner = student(steps=1, batch_size=1, trust_weights=weights)
    learner.fit([draw(1, images)], make_context("run"))
    assert seen == [weights]
