"""The tiny grounder: assignment, loss, letterbox, suppression, and the proposer around it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.data.errors import BadInput
from pipeline.data.records import Category, Instance, Ontology, Origin, Point, Record, Role, Source
from teachers.protocols import Sample
from teachers.text import TextEncoder
from teachers.tiny import train_grounder
from teachers.tiny.grounder import Found, TinyGrounder
from teachers.tiny.grounder_loss import Target, assign, grounding_loss
from teachers.tiny.proposer import PADDING, TinyProposer, detect, letterbox
from teachers.tiny.scenes import CachedScene

N = 1344


def unit(index: int) -> torch.Tensor:
    vector = torch.zeros(64)
    vector[index] = 1
    return vector


@pytest.fixture(scope="module")
def model() -> TinyGrounder:
    torch.manual_seed(0)
    return TinyGrounder().eval()


def test_shapes_size_and_first_words(model: TinyGrounder) -> None:
    assert sum(p.numel() for p in model.parameters()) < 1_200_000
    found = model(torch.randn(2, 3, 256, 256), torch.randn(2, 5, 64))
    assert (found.boxes.shape, found.logits.shape) == ((2, N, 4), (2, N, 5))
    assert found.logits.sigmoid().mean() < 0.1
    assert (found.boxes[..., 2:] > found.boxes[..., :2]).all()
    assert model.centres[0].tolist() == [4, 4]
    assert model.centres[1].tolist() == [12, 4]
    assert model.centres[-1].tolist() == [240, 240]


def test_a_name_scores_the_same_whatever_else_is_asked(model: TinyGrounder) -> None:
    image, names = torch.randn(1, 3, 256, 256), torch.randn(1, 5, 64)
    torch.testing.assert_close(model(image, names).logits[..., :1], model(image, names[:, :1]).logits)


BOXES = torch.tensor([[40.0, 40, 120, 120], [44, 44, 52, 52]])


def perfect(model: TinyGrounder, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
    """Each location says the smallest object it lies in, and its name."""
    boxes, chances = torch.zeros(N, 4), torch.full((N, 3), 0.01)
    for box, name in zip(target.boxes, target.names, strict=True):
        inside = ((model.centres >= box[:2]) & (model.centres <= box[2:])).all(1)
        boxes[inside], chances[inside] = box, 0.01
        chances[inside, name] = 0.9
    return boxes, chances


def test_assignment_of_a_perfect_network(model: TinyGrounder) -> None:
    target = Target(BOXES, torch.tensor([0, 2]))
    scores, owner = assign(model.centres, *perfect(model, target), target)
    assert (owner == 0).sum() == 10
    assert (owner == 1).sum() >= 1
    for index, name in enumerate(target.names):
        mine = owner == index
        low, high = BOXES[index, :2] - 1, BOXES[index, 2:] + 1
        assert ((model.centres[mine] >= low) & (model.centres[mine] <= high)).all()
        torch.testing.assert_close(scores[mine, name], torch.ones(int(mine.sum())))
    assert scores[owner < 0].sum() == 0
    assert scores[:, 1].sum() == 0


def test_a_contested_location_goes_to_the_better_overlap(model: TinyGrounder) -> None:
    target = Target(torch.tensor([[40.0, 40, 120, 120], [40, 40, 120, 100]]), torch.tensor([0, 1]))
    boxes = target.boxes[1].expand(N, 4)
    _, owner = assign(model.centres, boxes, torch.full((N, 2), 0.5), target)
    assert (owner == 1).sum() == 10
    assert (owner == 0).sum() < 10


def test_poor_boxes_have_positives_too_with_the_best_one_for_the_target(model: TinyGrounder) -> None:
    target = Target(BOXES[:1], torch.tensor([1]))
    boxes = BOXES[:1].repeat(N, 1)
    boxes[:, 2] -= 56  # IoU 0.3
    boxes[297, 2] += 16  # IoU 0.5
    scores, owner = assign(model.centres, boxes, torch.full((N, 3), 0.2), target)
    assert (owner == 0).sum() == 10
    torch.testing.assert_close(scores.max(), torch.tensor(0.5))


def test_an_image_without_objects_has_no_positives(model: TinyGrounder) -> None:
    none = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    scores, owner = assign(model.centres, torch.rand(N, 4), torch.rand(N, 3), none)
    assert (scores.sum(), owner.max()) == (0, -1)
    found = Found(torch.rand(1, N, 4), torch.zeros(1, N, 3))
    assert grounding_loss(model, found, [none])["box"] == 0


def test_the_loss_prefers_the_truth(model: TinyGrounder) -> None:
    target = Target(BOXES, torch.tensor([0, 2]))
    boxes, chances = perfect(model, target)
    right = grounding_loss(model, Found(boxes[None], chances.logit()[None]), [target])
    moved = grounding_loss(model, Found(boxes[None] + 6, chances.logit()[None]), [target])
    wrong = grounding_loss(model, Found(boxes[None], chances.roll(1, 1).logit()[None]), [target])
    assert right["box"] < 0.01 < moved["box"]
    assert right["score"] < wrong["score"]


def test_the_loss_falls_on_one_scene() -> None:
    torch.manual_seed(0)
    net = TinyGrounder().train()
    image, names = torch.randn(2, 3, 256, 256), torch.stack([unit(0), unit(1), unit(2)]).expand(2, 3, 64)
    targets = [Target(BOXES[:1], torch.tensor([0])), Target(BOXES[:1] + 90, torch.tensor([2]))]
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        parts = grounding_loss(net, net(image, names), targets)
        loss = parts["score"] + parts["box"]
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(("height", "width"), [(256, 256), (100, 400), (1000, 10), (31, 57), (1, 700)])
def test_letterbox(height: int, width: int) -> None:
    pixels, across, down = letterbox(np.zeros((height, width, 3), np.uint8))
    assert pixels.shape == (1, 3, 256, 256)
    black = pixels[0, 0] == 0
    assert black.sum() == max(1, round(width * across)) * max(1, round(height * down))
    assert max(width * across, height * down) == pytest.approx(256)
    assert black[0, 0]
    assert set(pixels.unique().tolist()) <= {0, PADDING}


def test_boxes_come_back_in_the_images_pixels_best_first(model: TinyGrounder) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 300, 3), dtype=np.uint8)
    found = detect(model, image, torch.stack([unit(0), unit(1)]))
    assert 0 < len(found.boxes) <= 100
    assert (found.boxes >= 0).all()
    assert found.boxes[:, [0, 2]].max() > 150  # not in the 256 px frame
    assert (found.boxes <= [300, 90, 300, 90]).all()
    assert (np.diff(found.scores) <= 0).all()


ONTOLOGY = Ontology((Category(4, "car"), Category(2, "Sea_Animal"), Category(9, "star")))


def sample(seed: int) -> Sample:
    record = Record(seed, f"{seed}.png", "0" * 64, 200, 150, "train", Role.WEAK)
    return Sample(record, np.random.default_rng(seed).integers(0, 256, (150, 200, 3), dtype=np.uint8))


def test_the_proposer_asks_what_it_is_told_and_nothing_else(model: TinyGrounder) -> None:
    asked: list[str] = []

    def embed(name: str) -> torch.Tensor:
        asked.append(name)
        return unit(len(name))

    proposer = TinyProposer(model, encoder=TextEncoder(embed), ontology=ONTOLOGY)
    first, second, third = proposer.propose([sample(0), sample(1), sample(2)], [[2, 9], [4], []])
    assert sorted(asked) == ["car", "sea animal", "star"]
    direct = detect(model, sample(0).image, torch.stack([unit(10), unit(4)]))
    assert [p.class_id for p in first] == [[2, 9][name] for name in direct.names]
    assert [p.score for p in first] == direct.scores.tolist()
    np.testing.assert_allclose([p.box_xyxy for p in first], direct.boxes)
    assert {p.class_id for p in second} == {4}
    assert third == []
    assert {p.origin for p in first} == {Origin.DINO}
    assert proposer.propose([sample(1)], [[4]]) == [second]


@pytest.mark.parametrize(("label", "refused"), [((), True), ((Point(5, 5),), False)], ids=["tag", "point"])
def test_a_name_it_does_not_know_is_refused_where_it_should_be_found(
    model: TinyGrounder, label: tuple[Point, ...], refused: bool
) -> None:
    ontology = Ontology((Category(4, "car"), Category(2, "traffic light")))
    proposer = TinyProposer(model, encoder=TextEncoder(lambda name: unit(len(name))), ontology=ontology)
    seen = sample(0)
    instances = (Instance(Source.HUMAN, class_id=2, points=label),)
    seen = Sample(replace(seen.record, instances=instances, tags=(2,)), seen.image)
    if refused:
        with pytest.raises(BadInput, match=r"image 0 \(0.png\): 'traffic light' should be found"):
            proposer.propose([seen], [[2, 4]])
    else:
        (found,) = proposer.propose([seen], [[2, 4]])
        assert {prompt.class_id for prompt in found} <= {2, 4}
        assert proposer.propose([seen], [[2]])[0]


def scene() -> CachedScene:
    """A white square at 60..100, 40..120 on black, and one thing without a class."""
    image = np.zeros((256, 256, 3), np.uint8)
    image[40:120, 60:100] = 255
    box = np.array([[60, 40, 100, 120], [0, 0, 9, 9]], np.float32)
    return CachedScene(image, np.zeros((2, 8192), np.uint8), np.array([7, 0]), np.zeros(2, np.int64), box)


@pytest.mark.parametrize("seed", range(8))
def test_a_varied_scene_keeps_its_box_on_its_object(seed: int) -> None:
    pixels, target = train_grounder.varied(scene(), np.random.default_rng(seed))
    assert pixels.shape == (3, 256, 256)
    if len(target.boxes):
        assert target.names.tolist() == [6]
        x0, y0, x1, y1 = target.boxes[0].tolist()
        bright = np.argwhere(pixels[0].numpy() > 150)
        assert np.allclose([bright[:, 1].min(), bright[:, 0].min()], [x0, y0], atol=2)
        assert np.allclose([bright[:, 1].max() + 1, bright[:, 0].max() + 1], [x1, y1], atol=2)
