"""How a stage gets at the model that its config names."""

from collections.abc import Callable
from pathlib import Path

from pydantic import JsonValue

from pipeline.data.errors import BadInput
from pipeline.engine.stage import WorkerContext
from teachers import catalog
from teachers.catalog import ModelSpec
from teachers.protocols import Proposer, Teacher


def with_settings(spec: ModelSpec, **overrides: JsonValue) -> ModelSpec:
    """The spec with the overrides that are set (not None): `steps: 300` beside `model:` wins over the model's own."""
    given = {key: value for key, value in overrides.items() if value is not None}
    return spec.model_copy(update={"settings": {**spec.settings, **given}})


def load_teacher(spec: ModelSpec, context: WorkerContext, *, artifact: Path | None) -> Teacher:
    """The teacher, tuned if there is an artifact."""
    return catalog.load_teacher(spec, ontology=context.ontology, device=context.device, artifact=artifact)


def load_proposer(spec: ModelSpec, context: WorkerContext) -> Proposer:
    """The proposer."""
    return catalog.load_proposer(spec, ontology=context.ontology, device=context.device, artifact=None)


def uneven(spec: ModelSpec, batch_size: Callable[[ModelSpec], int], world: int) -> str:
    """Why `world` processes cannot share every step of a model's training evenly; empty if they can."""
    try:
        size = world if world == 1 else batch_size(spec)
    except BadInput:
        return ""  # what is wrong with the model is told in its own place
    return (
        "" if size % world == 0 else f"{world} workers cannot share batch_size {size} of {spec.name} equally"
    )
