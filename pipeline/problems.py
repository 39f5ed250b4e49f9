"""What is wrong with a config, in words: one line a problem, each with its path, what was found, what is
allowed.
"""

import difflib
import types
from collections.abc import Collection, Sequence
from typing import Literal, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue, ValidationError


def did_you_mean(name: str, known: Collection[str]) -> str:
    """A hint for an unknown name: the nearest known ones, or all of them."""
    near = difflib.get_close_matches(name, known, n=2)
    if near:
        return f"did you mean {' or '.join(repr(n) for n in near)}?"
    return f"expected one of {', '.join(known)}" if known else "nothing is expected here"


def explain(error: ValidationError, model: type[BaseModel], where: str) -> list[str]:
    """Each problem of a pydantic error as a line; `where` is the path of the validated value ('' for the
    whole).
    """
    lines = []
    for item in error.errors(include_url=False):
        if item["type"] == "default_factory_not_called":
            continue  # for another problem, which is told
        location = _without_tags(model, item["loc"])
        path = ".".join(part for part in (where, *map(str, location)) if part)
        if item["type"] == "extra_forbidden":
            known = _known_at(model, location[:-1])
            lines.append(f"{path}: unknown key, {did_you_mean(str(location[-1]), known)}")
        elif item["type"] == "missing":
            lines.append(f"{path}: is missing")
        elif item["type"] in ("union_tag_not_found", "union_tag_invalid"):
            context = item["ctx"]
            key = context["discriminator"].strip("'")
            what = f"unknown value {context['tag']!r}" if "tag" in context else "is missing"
            hint = did_you_mean(str(context.get("tag", "")), _tags(model, location, key))
            lines.append(f"{path}.{key}: {what}, {hint}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{path}: {message}{_found(item['input'])}" if path else message)
    return lines


def _found(value: JsonValue) -> str:
    return "" if isinstance(value, dict | list) or len(repr(value)) > 80 else f", found {value!r}"


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for member in get_args(annotation) for model in _models_in(member)]
    return []


def _field(model: type[BaseModel], name: object) -> object | None:
    for key, info in model.model_fields.items():
        if name in (key, info.alias):
            return info.annotation
    return None


def _tagged(models: Sequence[type[BaseModel]], tag: object) -> list[type[BaseModel]]:
    """The models that have `tag` as a literal value of some field, as the members of a tagged union do."""
    return [
        model
        for model in models
        if any(
            get_origin(info.annotation) is Literal and tag in get_args(info.annotation)
            for info in model.model_fields.values()
        )
    ]


def _without_tags(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    models: list[type[BaseModel]] = [model]
    kept: list[int | str] = []
    for part in location:
        inner = [found for m in models for found in _models_in(_field(m, part))]
        if len(models) > 1 and _tagged(models, part):
            models = _tagged(models, part)
            continue
        kept.append(part)
        models = inner
    return tuple(kept)


def _tags(model: type[BaseModel], location: tuple[int | str, ...], key: str) -> list[str]:
    """The values of `key` that tell apart the models of a union."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        models = [found for m in models for found in _models_in(_field(m, part))]
    return [str(tag) for m in models for tag in get_args(_field(m, key))]


def _known_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    models: list[type[BaseModel]] = [model]
    for part in location:
        models = [found for m in models for found in _models_in(_field(m, part))]
    return sorted({info.alias or key for m in models for key, info in m.model_fields.items()})
