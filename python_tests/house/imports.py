"""Who imports whom in a package, read from its syntax trees, and the circles in that graph.

Which modules an import statement leads to:

- `from svgdx.x import y` leads to the module svgdx.x.y if there is one, otherwise to svgdx.x;
- Python also runs the `__init__` of every package on the way. A package that contains the importer is already running,
  so it does not count: a door that re-exports its own rooms, and a room that imports its neighbour, form no circle.
  The door of any other package counts, and with it everything that this door imports.

A statement inside a function, or under `if TYPE_CHECKING`, counts as any other. So does `import_module("svgdx.x")`, and
an entry point "svgdx.x:name", by which a table of commands names what is imported later.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ENTRY_POINT = re.compile(r"[a-z]\w*(?:\.\w+)*:[A-Za-z]\w*")


@dataclass(frozen=True)
class Module:
    """A Python file of the package; a package is named by its folder and stored in its `__init__.py`."""

    name: str
    path: Path

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


@dataclass(frozen=True)
class Import:
    """A statement in `source` that runs the module `target`."""

    source: str
    target: str
    line: int
    in_function: bool
    for_types: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def modules_of(package: Path) -> dict[str, Module]:
    """Every module of a package, given by its folder, by dotted name."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = Module(name, path)
    return modules


def imports_of(package: Path) -> list[Import]:
    """Every import between modules of the package."""
    modules = modules_of(package)
    imports = []
    for module in modules.values():
        for name, node, in_function, for_types in _statements(module, modules):
            imports += [
                Import(module.name, target, node.lineno, in_function, for_types)
                for target in _reached(name, module.name, modules)
            ]
    return imports


def circles(imports: list[Import]) -> list[list[Import]]:
    """One shortest circle of imports from each set of modules that reach each other."""
    graph: dict[str, dict[str, Import]] = {}
    for statement in imports:
        graph.setdefault(statement.source, {}).setdefault(statement.target, statement)
    circles, seen = [], set[str]()
    for start in sorted(graph):
        circle = None if start in seen else _shortest_circle(graph, start)
        if circle is not None:
            circles.append(circle)
            seen |= _reachable(graph, start) & {node for node in graph if start in _reachable(graph, node)}
    return circles


def _statements(module: Module, modules: dict[str, Module]) -> Iterator[tuple[str, ast.stmt | ast.expr, bool, bool]]:
    """Dotted name, node, and whether it stands in a function or under TYPE_CHECKING."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)

    def walk(node: ast.AST, in_function: bool, for_types: bool) -> Iterator[tuple[str, ast.AST, bool, bool]]:
        for name in _names(node, module, modules):
            yield name, node, in_function, for_types
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        otherwise = node.orelse if isinstance(node, ast.If) else []
        for child in ast.iter_child_nodes(node):
            types = for_types or (typing and child not in otherwise)
            yield from walk(child, in_function or isinstance(node, functions), types)

    yield from walk(ast.parse(module.path.read_text()), False, False)  # type: ignore[misc]


def _names(node: ast.AST, module: Module, modules: dict[str, Module]) -> list[str]:
    """The dotted names that a node imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.name.split(".")
            parts = parts[: len(parts) - node.level + module.is_package]
            base = ".".join([*parts, base] if base else parts)
        full = [f"{base}.{alias.name}" for alias in node.names]
        return [name if name in modules else base for name in full]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        return [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and ENTRY_POINT.fullmatch(node.value):
        return [node.value.partition(":")[0]]
    return []


def _reached(name: str, importer: str, modules: dict[str, Module]) -> list[str]:
    """The modules that an import of `name` runs: itself, and the packages on the way that do not hold the importer."""
    parts = name.split(".")
    way = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
    doors = [package for package in way[:-1] if not f"{importer}.".startswith(f"{package}.")]
    return [target for target in [*doors, name] if target in modules and target != importer]


def _shortest_circle(graph: dict[str, dict[str, Import]], start: str) -> list[Import] | None:
    ways: dict[str, list[Import]] = {start: []}
    queue = [start]
    for node in queue:
        for target, statement in graph.get(node, {}).items():
            if target == start:
                return [*ways[node], statement]
            if target not in ways:
                ways[target] = [*ways[node], statement]
                queue.append(target)
    return None


def _reachable(graph: dict[str, dict[str, Import]], start: str) -> set[str]:
    reached, queue = {start}, [start]
    for node in queue:
        fresh = set(graph.get(node, {})) - reached
        reached |= fresh
        queue += fresh
    return reached
