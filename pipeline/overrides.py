"""The text of a config: reading YAML and laying `--set a.b=value` over it."""

from collections.abc import Hashable, Sequence
from pathlib import Path

import yaml
from pydantic import JsonValue

from pipeline.data.errors import BadInput


class _NoDuplicates(yaml.SafeLoader):
    """Plain YAML would let the last of two equal keys win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} comes twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_config(path: Path) -> dict[str, JsonValue]:
    """The mapping a YAML file holds; BadInput naming the file and line otherwise."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_NoDuplicates)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: expected YAML: {error}") from error
    if not isinstance(found, dict):
        raise BadInput(
            f"{path}: expected a mapping with keys such as `name` and `stages`, found {type(found).__name__}"
        )
    return found


def apply_overrides(config: dict[str, JsonValue], settings: Sequence[str]) -> list[str]:
    """Lay `a.b=value` settings (values are YAML) over a config, in place; the problems found.

    In `stages` a part of the path is a position or a stage's name, which means every stage of that name.
    """
    problems = []
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not all(path.split(".")):
            problems.append(f"--set {setting}: expected key=value with a dotted key")
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        if not _put(config, path.split("."), value):
            problems.append(f"--set {setting}: there is nothing at {path!r} to set")
    return problems


def _put(where: JsonValue, path: list[str], value: JsonValue) -> bool:
    head, rest = path[0], path[1:]
    if isinstance(where, dict):
        if not rest:
            where[head] = value
            return True
        if where.get(head) is None:
            where[head] = {}
        return _put(where[head], rest, value)
    if isinstance(where, list):
        if head.isdigit():
            if int(head) >= len(where):
                return False
            if not rest:
                where[int(head)] = value
                return True
            return _put(where[int(head)], rest, value)
        named = [entry for entry in where if isinstance(entry, dict) and head in entry]
        return bool(named) and all(_put(entry, path, value) for entry in named)
    return False
