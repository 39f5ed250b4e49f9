"""The class-aware branch of a prompt encoder (Das et al. 2024, Eq. 1-2).

F_locked is SAM's own frozen prompt encoder, F_train a trainable copy, t the projected text vector of the class:
    Z_text = F_train(P) + t                 (Eq. 1)
    Z      = F_locked(P) + G_zero(Z_text)   (Eq. 2)
Legend: N prompts, T prompt tokens, C prompt width, d text width.
"""

from copy import deepcopy

from segment_anything.modeling import PromptEncoder
from torch import Tensor, nn

Points = tuple[Tensor, Tensor]  # coordinates (N, P, 2) in the input square, labels (N, P)


class ClassAwarePrompts(nn.Module):
    """F_train, the text projection and G_zero; F_locked is not part of it and is never changed."""

    def __init__(self, locked: PromptEncoder, text_width: int) -> None:
        super().__init__()
        width = locked.embed_dim
        self.trainable = _sparse_copy(locked)
        self.project = nn.Linear(text_width, width)
        self.zero = nn.Linear(width, width)
        # Eq. 2: G_zero starts at zero, so Z == F_locked(P) at step 0. The first step moves G_zero alone.
        nn.init.zeros_(self.zero.weight)
        nn.init.zeros_(self.zero.bias)

    def added(self) -> list[nn.Parameter]:
        """What SAM has nothing of, and training starts from nothing: the projection and G_zero."""
        return [*self.project.parameters(), *self.zero.parameters()]

    def forward(
        self, locked_tokens: Tensor, points: Points | None, boxes: Tensor | None, *, text: Tensor
    ) -> Tensor:
        """Z (N, T, C) from F_locked(P) (N, T, C), the prompts P themselves and class vectors `text` (N, d)."""
        tokens, _ = self.trainable(points=points, boxes=boxes, masks=None)
        text_tokens = tokens + self.project(text)[:, None, :]  # Eq. 1
        merged: Tensor = locked_tokens + self.zero(text_tokens)  # Eq. 2
        return merged


def _sparse_copy(locked: PromptEncoder) -> PromptEncoder:
    """F_train: all of the prompt encoder, trainable where sparse prompts reach it (points, corners, padding)."""
    copy = deepcopy(locked).requires_grad_(False)
    copy.point_embeddings.requires_grad_(True)
    copy.not_a_point_embed.requires_grad_(True)
    return copy
