"""The files and the dotted names of svgdx that comments, docstrings and entry points "svgdx.x:name" mention."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from house.imports import ENTRY_POINT

CODE = ("py", "h", "cuh", "cpp", "cu", "cmake")
CPP = (".h", ".cuh", ".cpp", ".cu")
PATH = re.compile(rf"(?<![\w./<*-])((?:[\w.-]+/)+[\w.-]*\w|[\w-]{{2,}}\.(?:{'|'.join(CODE)}))(?![\w*<])")
GYMNASIUM_ID = re.compile(r"-v\d+$")
NAME = re.compile(r"(?<![\w./-])svgdx(?:\.[A-Za-z_]\w*)+")
COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


def missing(root: Path, folders: Iterable[str]) -> list[str]:
    """Mentions, in the sources under `folders`, of a file or of a name in svgdx that is not there.

    A path is looked up from the root, from csrc/ and beside the file that mentions it; a bare file name anywhere. Only
    what starts like a path of the repository or ends like a source file counts as a path. A name without the ending of
    a source file may be the beginning of a name, as bench/results/sampler is of the files that a benchmark writes.
    """
    files = _files(root)
    names = Names(root / "svgdx")
    offenders = []
    for path in sorted(path for folder in folders for path in _sources(root / folder)):
        for line, text in prose_of(path):
            place = f"{path.relative_to(root).as_posix()}:{line}"
            offenders += [
                f"{place} mentions {mention}"
                for mention in dict.fromkeys(PATH.findall(text))
                if _is_path(root, mention) and not _exists(root, files, path, mention)
            ]
            offenders += [
                f"{place} mentions {mention}" for mention in dict.fromkeys(NAME.findall(text)) if not names.has(mention)
            ]
    return offenders


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every comment and docstring of a Python or C++ file; an entry point reads as a dotted name."""
    source = path.read_text()
    if path.suffix in CPP:
        for match in COMMENT.finditer(source):
            if not match.group().startswith('"'):
                yield source.count("\n", 0, match.start()) + 1, match.group()
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        # Docstrings, and strings that stand alone below an attribute.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and ENTRY_POINT.fullmatch(node.value):
            yield node.lineno, node.value.replace(":", ".")


class Names:
    """The dotted names of a package: its modules, what they define or import, and the attributes of their classes."""

    def __init__(self, package: Path) -> None:
        self.package = package
        self.known: dict[Path, dict[str, ast.AST]] = {}

    def has(self, name: str) -> bool:
        """Whether a dotted name leads to something."""
        module, rest = self._module(name)
        if not rest:
            return True
        node = self._defined(module).get(rest[0])
        if node is None or len(rest) == 1 or not isinstance(node, ast.ClassDef):
            return node is not None
        return rest[1] in _attributes(node)

    def _module(self, name: str) -> tuple[Path, list[str]]:
        """The file of the module that a dotted name begins with, and the rest of the name."""
        folder, (_, *rest) = self.package, name.split(".")
        while rest and (folder / rest[0] / "__init__.py").exists():
            folder, rest = folder / rest[0], rest[1:]
        if rest and (folder / f"{rest[0]}.py").exists():
            return folder / f"{rest[0]}.py", rest[1:]
        return folder / "__init__.py", rest

    def _defined(self, module: Path) -> dict[str, ast.AST]:
        if module not in self.known:
            names = self.known[module] = {}
            for name, node in _definitions(ast.parse(module.read_text()).body):
                if name == "*" and isinstance(node, ast.ImportFrom):
                    names.update(self._defined(self._module(node.module or "")[0]))
                else:
                    names[name] = node
        return self.known[module]


def _definitions(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Names that statements bind, with what binds them."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0], node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        yield name.id, node
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from _definitions([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)])


def _attributes(node: ast.ClassDef) -> set[str]:
    """What a class defines in its body and sets on self."""
    on_self = {
        target.attr
        for target in ast.walk(node)
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
    }
    return on_self | {name for name, _ in _definitions(node.body)}


def _files(root: Path) -> set[str]:
    """Names of all source files of the repository."""
    folders = [folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    paths = [*root.iterdir(), *(path for folder in folders for path in folder.rglob("*"))]
    return {path.name for path in paths if path.is_file()}


def _sources(place: Path) -> list[Path]:
    suffixes = (*CPP, ".py")
    return [path for path in place.rglob("*") if path.suffix in suffixes] if place.is_dir() else [place]


def _is_path(root: Path, mention: str) -> bool:
    if GYMNASIUM_ID.search(mention):
        return False
    first = mention.split("/")[0]
    return mention.rpartition(".")[2] in CODE or ("/" in mention and (root / first).is_dir())


def _exists(root: Path, files: set[str], source: Path, mention: str) -> bool:
    if "/" not in mention:
        return mention in files
    places = [folder / mention for folder in (root, root / "csrc", source.parent)]
    if mention.rpartition(".")[2] in CODE:
        return any(place.exists() for place in places)
    return any(any(place.parent.glob(f"{place.stem}*")) for place in places)
