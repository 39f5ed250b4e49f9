"""The text of a config: reading YAML, plain values alone, and laying `--set a.b=value` over it."""

from collections.abc import Hashable, Sequence
from pathlib import Path

import yaml
from pydantic import JsonValue

from pipeline.data.errors import BadInput, printable
from pipeline.data.paths import open_file
from pipeline.problems import did_you_mean

MAX_BYTES = 1 << 22
MAX_VALUES = 100_000  # with every alias written out: a few lines of aliases may stand for billions
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map", "merge")
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"


class _PlainLoader(yaml.SafeLoader):
    """What JSON can hold and no more (dates stay text); plain YAML would let the last of two equal keys win."""

    yaml_constructors = {  # noqa: RUF012
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in _PLAIN
    }
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, form) for tag, form in known if tag.removeprefix(_TAG) in _PLAIN]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _count(node, {}, ())
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:  # what it brings may be said anew here
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise _problem("expected plain text as a key", key_node)
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise _problem(f"key {key!r} comes twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _problem(text: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def _count(node: yaml.Node, counts: dict[int, int], above: tuple[int, ...]) -> int:
    """Values of a node with its aliases written out; ConstructorError for too many, or for a node within itself."""
    if id(node) in above:
        raise _problem("an alias stands for what it lies in", node)
    if id(node) not in counts:
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        counts[id(node)] = 1 + sum(_count(part, counts, (*above, id(node))) for part in parts)
    if counts[id(node)] > MAX_VALUES:
        raise _problem(f"expected at most {MAX_VALUES} values, found more with all aliases written out", node)
    return counts[id(node)]


def read_config(path: Path) -> dict[str, JsonValue]:
    """The mapping a YAML file holds; BadInput naming the file and line otherwise."""
    name = printable(str(path))
    try:
        with open_file(path) as file:
            data = file.read(MAX_BYTES + 1)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from None
    except OSError as error:
        raise BadInput(f"{name}: cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise BadInput(f"{name}: expected a config of at most {MAX_BYTES} bytes, found more")
    try:
        found = _parse(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadInput(
            f"{name}: line {line}: expected UTF-8, found the byte {data[error.start]:#04x}"
        ) from None
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from None
    if not isinstance(found, dict):
        what = "an empty file" if found is None else type(found).__name__
        raise BadInput(f"{name}: expected a mapping with keys such as `name` and `stages`, found {what}")
    return found


def _parse(text: str) -> JsonValue:
    """The value of a YAML text; BadInput with the line."""
    try:
        found: JsonValue = yaml.load(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise BadInput(
            f"expected YAML: {where}{', '.join(filter(None, (error.context, error.problem)))}"
        ) from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise BadInput(
            f"expected YAML: line {line}: a character that is not allowed, {error.character:#x}"
        ) from None
    except RecursionError:
        raise BadInput("expected YAML: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise BadInput(f"expected YAML: {error}") from None
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
            value = _parse(text)
        except BadInput:
            value = text
        lacking = _unknown_model(config, path.split(".")) or _put(config, path.split("."), value)
        if lacking:
            problems.append(f"--set {setting}: {lacking}")
    return problems


def _unknown_model(config: dict[str, JsonValue], path: list[str]) -> str:
    """Why a setting of a model has no place: only `use` makes a new one."""
    models = config.get("models")
    if path[0] != "models" or len(path) < 3 or path[2] == "use" or not isinstance(models, dict):
        return ""
    return (
        "" if path[1] in models else f"there is no model {path[1]!r}, {did_you_mean(path[1], list(models))}"
    )


def _put(where: JsonValue, path: list[str], value: JsonValue) -> str:
    """Set what lies at a path; why not, if there is no such place."""
    head, rest = path[0], path[1:]
    if isinstance(where, dict):
        if not rest:
            where[head] = value
            return ""
        if where.get(head) is None:
            where[head] = {}
        return _put(where[head], rest, value)
    if isinstance(where, list) and head.isdigit():
        if int(head) >= len(where):
            return f"there is nothing at position {head} of {len(where)}"
        if rest:
            return _put(where[int(head)], rest, value)
        where[int(head)] = value
        return ""
    if isinstance(where, list):
        named = [entry for entry in where if isinstance(entry, dict) and head in entry]
        if named:
            return next(filter(None, [_put(entry, path, value) for entry in named]), "")
        known = [name for entry in where if isinstance(entry, dict) for name in map(str, entry)]
        return f"there is nothing named {head!r}, {did_you_mean(head, list(dict.fromkeys(known)))}"
    return f"there is nothing to set at {'.'.join(path)!r}: what it is in is {where!r}"
