"""How a tuned teacher is asked that is known by its folder alone. Imports no torch until one is looked into."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from pipeline.data.records import Category
from teachers.am_sam_settings import AM_SAM


@dataclass(frozen=True)
class Tuned:
    """A tuned teacher as its folder tells of it: the `use` and settings to ask it with, and its classes, if it says."""

    entry: dict[str, JsonValue]
    categories: tuple[Category, ...] = ()


def tuned(artifact: Path) -> Tuned:
    """Of the folder that a teacher was tuned into; BadInput, naming its card, if that is missing or damaged."""
    from teachers.am_sam_artifact import is_am_sam, read_am_sam
    from teachers.heads import read_teacher

    if is_am_sam(artifact):
        card = read_am_sam(artifact)
        return Tuned(asked_as_tuned({"use": AM_SAM, **card.settings}, artifact), card.categories)
    model = read_teacher(artifact).model
    entry = {"use": "class_aware_sam", **model.model_dump(include={"sam", "class_aware", "zoom"})}
    return Tuned(entry | ({"text": model.text} if model.text else {}))


def asked_as_tuned(entry: dict[str, JsonValue], artifact: Path | None) -> dict[str, JsonValue]:
    """An entry's settings, for labelling alone: a detector that was tuned along lies in the artifact."""
    if entry.get("use") == AM_SAM and entry.get("boxes") == "detector" and artifact is not None:
        first = ("detector_weights", "detector_sha256")
        return {**{key: value for key, value in entry.items() if key not in first}, "boxes": "fitted"}
    return entry
