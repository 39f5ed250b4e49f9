"""Equations 1-2: what the branch adds, and what the first training step can move."""

from collections.abc import Iterator

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor

from teachers.class_aware import ClassAwarePrompts
from teachers.sam.decode import decode_masks

WIDTH, TEXT = 16, 6


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and lose much where other work shares the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def locked_encoder() -> PromptEncoder:
    torch.manual_seed(0)
    encoder = PromptEncoder(WIDTH, image_embedding_size=(4, 4), input_image_size=(32, 32), mask_in_chans=4)
    return encoder.requires_grad_(False)


def prompts(kind: str) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    xy, corners = (torch.rand(3, n, generator=generator) * 32 for n in (2, 4))
    points = (xy[:, None, :], torch.tensor([[1], [0], [1]])) if "point" in kind else None
    return points, corners if "box" in kind else None


@pytest.mark.parametrize("kind", ["box", "point", "point_box"])
def test_branch_at_initialisation_adds_nothing(kind: str) -> None:
    locked = locked_encoder()
    branch = ClassAwarePrompts(locked, TEXT)
    points, boxes = prompts(kind)
    tokens, _ = locked(points=points, boxes=boxes, masks=None)
    assert torch.equal(branch(tokens, points, boxes, text=torch.randn(3, TEXT)), tokens)


@pytest.mark.parametrize("kind", ["box", "point", "point_box"])
def test_equations(kind: str) -> None:
    locked = locked_encoder()
    branch = ClassAwarePrompts(locked, TEXT)
    for value in branch.parameters():
        torch.nn.init.normal_(value)
    points, boxes = prompts(kind)
    text = torch.randn(3, TEXT)
    tokens, _ = locked(points=points, boxes=boxes, masks=None)
    own, _ = branch.trainable(points=points, boxes=boxes, masks=None)
    z_text = own + (text @ branch.project.weight.T + branch.project.bias)[:, None]
    expected = tokens + z_text @ branch.zero.weight.T + branch.zero.bias
    torch.testing.assert_close(branch(tokens, points, boxes, text=text), expected, rtol=1e-5, atol=1e-5)


def test_the_locked_encoder_is_never_touched() -> None:
    locked = locked_encoder()
    branch = ClassAwarePrompts(locked, TEXT)
    mine, theirs = dict(branch.trainable.named_parameters()), dict(locked.named_parameters())
    assert not any(value.requires_grad for value in theirs.values())
    assert all(mine[name].data_ptr() != theirs[name].data_ptr() for name in mine)
    trained = {name for name, value in mine.items() if value.requires_grad}
    assert trained == {f"point_embeddings.{i}.weight" for i in range(4)} | {"not_a_point_embed.weight"}


def loss_of(decoder: MaskDecoder, branch: ClassAwarePrompts, locked: PromptEncoder) -> Tensor:
    points, boxes = prompts("point_box")
    tokens, _ = locked(points=points, boxes=boxes, masks=None)
    sparse = branch(tokens, points, boxes, text=torch.ones(3, TEXT))
    features = torch.randn(3, WIDTH, 4, 4, generator=torch.Generator().manual_seed(1))
    dense = locked.no_mask_embed.weight.reshape(1, -1, 1, 1)
    logits, _ = decode_masks(decoder, features, locked.get_dense_pe(), sparse=sparse, dense=dense)
    return logits.square().mean()


def test_first_step_moves_only_g_zero_of_the_branch_and_the_decoder() -> None:
    locked = locked_encoder()
    branch = ClassAwarePrompts(locked, TEXT)
    transformer = TwoWayTransformer(depth=2, embedding_dim=WIDTH, num_heads=2, mlp_dim=32)
    decoder = MaskDecoder(
        transformer_dim=WIDTH, transformer=transformer, iou_head_depth=2, iou_head_hidden_dim=8
    )
    trained = [value for module in (branch, decoder) for value in module.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    loss_of(decoder, branch, locked).backward()

    def moving(module: torch.nn.Module) -> set[str]:
        named = module.named_parameters()
        return {name for name, value in named if value.grad is not None and value.grad.any()}

    assert moving(branch) == {"zero.weight", "zero.bias"}
    assert {"iou_token.weight", "transformer.final_attn_token_to_image.q_proj.weight"} <= moving(decoder)
    optimizer.step()
    optimizer.zero_grad()
    loss_of(decoder, branch, locked).backward()
    assert {"project.weight", "project.bias", "trainable.point_embeddings.2.weight"} <= moving(branch)
    assert all(value.grad is None for value in locked.parameters())
