"""The rules about folders, file names and lengths."""

from __future__ import annotations

import ast
from pathlib import Path

FEWEST_FILES, MOST_FILES = 3, 10
FILE_LINES, FUNCTION_LINES = 400, 60


def crowded_or_empty(package: Path) -> list[str]:
    """Folders with fewer than 3 or more than 10 Python files beside `__init__.py`.

    A folder that holds folders only, such as svgdx/experiments, is a corridor and not counted.
    """
    offenders = []
    for folder in sorted({path.parent for path in package.rglob("*.py")}):
        count = sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        corridor = count == 0 and any(folder.glob("*/__init__.py"))
        name = folder.relative_to(package.parent).as_posix()
        if not corridor and not FEWEST_FILES <= count <= MOST_FILES:
            offenders.append(f"{name} has {count} Python files")
    return offenders


def repeated_names(package: Path) -> list[str]:
    """Files whose name contains that of their folder, in singular or plural."""
    offenders = []
    for path in sorted(package.rglob("*.py")):
        folder, words = _words(path.parent.name), _words(path.stem)
        starts = range(len(words) - len(folder) + 1)
        if any(words[start : start + len(folder)] == folder for start in starts):
            offenders.append(path.relative_to(package.parent).as_posix())
    return offenders


def long_files(package: Path) -> list[str]:
    """Files of more than 400 lines."""
    lengths = {path: len(path.read_text().splitlines()) for path in sorted(package.rglob("*.py"))}
    return [
        f"{path.relative_to(package.parent).as_posix()} has {length} lines"
        for path, length in lengths.items()
        if length > FILE_LINES
    ]


def long_functions(package: Path) -> list[str]:
    """Functions of more than 60 lines from `def` to their end, not counting the docstring."""
    offenders = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = _lines(node) - (_lines(node.body[0]) if ast.get_docstring(node) else 0)
                if length > FUNCTION_LINES:
                    place = f"{path.relative_to(package.parent).as_posix()}:{node.lineno}"
                    offenders.append(f"{place} {node.name} has {length} lines")
    return offenders


def _lines(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def _words(name: str) -> list[str]:
    return [word.rstrip("s") for word in name.strip("_").split("_")]
