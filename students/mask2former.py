"""The Mask2Former student: fit on records with masks, predict instances, save and load an artifact that stands alone.

An artifact is `model.safetensors`, `student.json` (variant, settings, ontology) and `loss.json`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Mask2FormerForUniversalSegmentation

from pipeline.data.errors import BadInput
from pipeline.data.records import Instance, Ontology
from pipeline.engine.stage import Metrics, Records, TrainContext
from students.architecture import build
from students.batch_norm import share_batch_norms
from students.card import Card, read_card, write_card
from students.inference import to_instances
from students.layers import predictions
from students.settings import MASK2FORMER, Mask2FormerSettings
from students.trainer import Training, write_losses
from students.weights import load_embedded, load_weights
from teachers.pool import Loader, RecordPool, write_pool
from teachers.protocols import Sample
from teachers.window import canvas_image, fitted_window

WEIGHTS = "model.safetensors"


class Mask2Former:
    """A `Student`: new, or with the weights `state`; a new one cannot predict before it is fitted."""

    def __init__(
        self,
        settings: Mask2FormerSettings,
        *,
        ontology: Ontology,
        device: str,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.settings = settings
        self.ontology = ontology
        self.device = device
        self.recipe = settings.recipe()
        self._model: Mask2FormerForUniversalSegmentation | None = None
        if state is not None:
            self._model = build(settings.variant, len(ontology.ids))
            nn.Module.to(self._model, device)
            self._model.load_state_dict(state)

    def fit(self, data: Records, context: TrainContext) -> Metrics:
        """Train on the records that have a mask of a known class; the same bits from the same seed on one CPU process.

        `BadInput` for a bad image, class or weights file; `Stopped` after a checkpoint if the context asks for it.
        """
        index = {class_id: i for i, class_id in enumerate(self.ontology.ids)}
        pool = self._pool(data, context, index)
        loader = Loader(
            pool=pool,
            images_root=context.images_root,
            class_index=index,
            size=self.recipe.size,
            scale=self.recipe.scale,
            batch=self.recipe.batch,
            seed=context.seed,
            trust_weights=self.settings.trust_weights,
            team=context.team,
        )
        with torch.random.fork_rng([] if self.device == "cpu" else [self.device]):
            model = self._new_model(context.seed)
            if not self.recipe.frozen_norm:
                share_batch_norms(model, context.team)
            nn.Module.to(model, self.device)
            training = Training(
                model, self.recipe, bf16=self.settings.bf16(self.device), frozen=self.recipe.frozen_norm
            )
            progress = training.run(loader, context)
        self._model = model
        self._save(model, context.out)
        return {**write_losses(progress, context.out), "images": len(pool)}

    def _pool(self, data: Records, context: TrainContext, index: Mapping[int, int]) -> RecordPool:
        path = context.scratch / "pool.arrow"
        if context.team.leads:
            write_pool(
                data,
                path,
                class_index=index,
                filter_empty=self.recipe.filter_empty,
                progress=context.progress,
            )
        context.team.wait()
        return RecordPool(path)

    def predict(self, batch: Sequence[Sample]) -> list[list[Instance]]:
        """Up to 100 instances of each image, best first; the pixels are scaled to fit the variant's canvas.

        Every image is computed on its own, in one fixed shape, so its result depends on no other.
        """
        if self._model is None:
            raise RuntimeError("this student knows nothing yet: fit it or load an artifact first")
        self._model.train(False)
        return [self._predict_one(self._model, sample) for sample in batch]

    @torch.inference_mode()
    def _predict_one(self, model: Mask2FormerForUniversalSegmentation, sample: Sample) -> list[Instance]:
        size = self.recipe.size
        height, width = sample.image.shape[:2]
        window = fitted_window((height, width), size)
        pixels = torch.from_numpy(canvas_image(sample.image, window, size))[None].to(self.device)
        outputs = predictions(model, pixels, bf16=self.settings.bf16(self.device))
        return to_instances(
            outputs.class_logits[-1][0],
            outputs.mask_logits[-1][0],
            window=window,
            size=size,
            class_ids=self.ontology.ids,
        )

    def _new_model(self, seed: int) -> Mask2FormerForUniversalSegmentation:
        torch.manual_seed(seed)
        model = build(self.settings.variant, len(self.ontology.ids))
        if self.settings.embedded:
            return load_embedded(model)
        return model if self.settings.weights is None else load_weights(model, self.settings.weights)

    def _save(self, model: Mask2FormerForUniversalSegmentation, out: Path) -> None:
        state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, out / WEIGHTS)
        # The same student, wherever its first weights lay and however often it was saved.
        settings = self.settings.model_dump(mode="json", exclude=set(self.settings.not_in_key))
        write_card(Card(use=MASK2FORMER, settings=settings, categories=self.ontology.categories), out)


def open_artifact(artifact: Path, *, device: str) -> Mask2Former:
    """The fitted student in an artifact's folder, with the classes it was trained on; `BadInput` if it is broken."""
    card = read_card(artifact)
    try:
        # It needs no backbone's file: all weights are in the artifact.
        settings = Mask2FormerSettings.model_validate({**card.settings, "from_scratch": True})
        state = load_file(artifact / WEIGHTS, device=device)
        return Mask2Former(settings, ontology=card.ontology, device=device, state=state)
    except (OSError, SafetensorError, ValidationError, RuntimeError) as error:
        raise BadInput(f"{artifact}: not a Mask2Former student's artifact: {error}") from error
