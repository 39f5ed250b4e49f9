"""Checks of docs/architecture.md that no linter has: sizes of files and functions, bare `__init__` files.

python tests/house_rules.py
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 7
PACKAGES = ("pipeline", "teachers", "students")


def tracked_python() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [Path(line) for line in listing.stdout.splitlines() if Path(line).exists()]


def function_findings(path: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = sum(argument.arg not in ("self", "cls") for argument in arguments)
        command = any("command" in ast.dump(decorator) for decorator in node.decorator_list)
        where = f"{path}:{node.lineno} {node.name}"
        if lines > MAX_FUNCTION_LINES:
            yield f"{where}: {lines} lines, at most {MAX_FUNCTION_LINES}"
        if count > MAX_ARGUMENTS and not command:  # a CLI command's arguments are its options
            yield f"{where}: {count} arguments, at most {MAX_ARGUMENTS}"


def file_findings(path: Path) -> Iterator[str]:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    if path.parts[0] in PACKAGES:
        lines = source.count("\n")
        if lines > MAX_FILE_LINES:
            yield f"{path}: {lines} lines, at most {MAX_FILE_LINES}"
        if path.name == "__init__.py" and (len(tree.body) != 1 or ast.get_docstring(tree) is None):
            yield f"{path}: holds more than a docstring"
        if ast.get_docstring(tree) is None:
            yield f"{path}: has no module docstring"
        yield from function_findings(path, tree)


def main() -> int:
    findings = [finding for path in tracked_python() for finding in file_findings(path)]
    stage = Path("pipeline/engine/stage.py")
    if stage.read_text().count("\n") >= 120:
        findings.append(f"{stage}: a newcomer reads it second, keep it under 120 lines")
    sys.stdout.write("".join(f"{finding}\n" for finding in findings))
    sys.stdout.write(f"house rules: {len(findings)} findings\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
