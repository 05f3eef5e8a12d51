"""The rules of the house (CONTRIBUTING.md) that a program can check, each with a planted offence that it must see."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from house import mentions, rooms
from house.imports import Import, circles, imports_of, modules_of

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "svgdx"
EXPERIMENTS = ("ebm", "eb_gfn", "rl", "toys")
SHARED = ("run", "data", "metrics")
PROSE = ("svgdx", "csrc", "bench", *(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.py")))


def assert_none(offences: list[str]) -> None:
    assert not offences, "\n" + "\n".join(offences)


def circles_in(imports: list[Import]) -> list[str]:
    """A line for each circle: the modules it passes through, and where each imports the next."""
    report = []
    for circle in circles(imports):
        way = " -> ".join([*(statement.source for statement in circle), circle[0].source])
        report.append("\n    ".join([way, *map(str, circle)]))
    return report


def upward(imports: list[Import]) -> list[str]:
    """Imports from a room into one that lies above it or beside it."""
    return [str(statement) for statement in imports if _is_upward(statement)]


def _is_upward(statement: Import) -> bool:
    if _within(statement.target, "svgdx.cli"):
        return statement.source != "svgdx.__main__"
    if _within(statement.source, "svgdx.samplers"):
        return _within(statement.target, "svgdx.distributed")
    for room in (*SHARED, *EXPERIMENTS):
        if _within(statement.source, f"svgdx.experiments.{room}"):
            others = (f"svgdx.experiments.{other}" for other in EXPERIMENTS if other != room)
            return any(_within(statement.target, other) for other in others)
    return False


def local(imports: list[Import]) -> list[str]:
    """Imports of our own modules inside functions, which only cli.py may have to start quickly."""
    return [str(statement) for statement in imports if statement.in_function and statement.source != "svgdx.cli"]


def intrusions(imports: list[Import]) -> list[str]:
    """Imports of a private module from outside its folder."""
    return [
        str(statement)
        for statement in imports
        if statement.target.rpartition(".")[2].startswith("_")
        and not _within(statement.source, statement.target.rpartition(".")[0])
    ]


def without_door(package: Path) -> list[str]:
    """Private modules of a folder below the package whose first line does not name that folder, their door."""
    return [
        f"{name} does not name its door"
        for name, module in modules_of(package).items()
        if name.rpartition(".")[2].startswith("_")
        and name.count(".") > 1
        and name.rpartition(".")[0] not in module.path.read_text().split("\n")[0]
    ]


def _within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return imports_of(PACKAGE)


def test_no_circle_of_imports(imports: list[Import]) -> None:
    assert_none(circles_in(imports))


def test_no_import_upward(imports: list[Import]) -> None:
    assert_none(upward(imports))


def test_no_import_of_our_own_inside_a_function(imports: list[Import]) -> None:
    assert_none(local(imports))


def test_private_modules_are_private_to_their_folder_and_name_its_door(imports: list[Import]) -> None:
    assert_none(intrusions(imports) + without_door(PACKAGE))


def test_folders_have_three_to_ten_files() -> None:
    assert_none(rooms.crowded_or_empty(PACKAGE))


def test_no_file_repeats_its_folder() -> None:
    assert_none(rooms.repeated_names(PACKAGE))


def test_files_and_functions_are_short() -> None:
    assert_none(rooms.long_files(PACKAGE) + rooms.long_functions(PACKAGE))


def test_what_comments_mention_exists() -> None:
    assert_none(mentions.missing(ROOT, PROSE))


def plant(root: Path, files: dict[str, str]) -> Path:
    """A package svgdx with these files; folders become packages."""
    for name, text in {"__init__.py": "", **files}.items():
        path = root / "svgdx" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in path.relative_to(root).parents[:-1]:
            (root / folder / "__init__.py").touch()
    return root / "svgdx"


CIRCLES = {
    "plain": {"a.py": "from svgdx.b import B", "b.py": "from svgdx import a"},
    "function": {"a.py": "import svgdx.b", "b.py": "def f():\n    from .a import A"},
    "types": {"a.py": "import svgdx.b", "b.py": "if TYPE_CHECKING:\n    from svgdx.a import A"},
    "import_module": {"a.py": "import svgdx.b", "b.py": "importlib.import_module('svgdx.a')"},
    "entry point": {"a.py": "import svgdx.b", "b.py": "COMMANDS = {'a': 'svgdx.a:main'}"},
    "through a door": {
        "x/__init__.py": "from svgdx.x.a import A", "x/a.py": "from svgdx.y.b import B",
        "y/b.py": "", "y/__init__.py": "from svgdx.y.c import C", "y/c.py": "from svgdx.x.d import D", "x/d.py": "",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CIRCLES)
def test_a_planted_circle_is_seen(tmp_path: Path, name: str) -> None:
    (report,) = circles_in(imports_of(plant(tmp_path, CIRCLES[name])))
    assert " -> " in report.splitlines()[0]
    assert all(" imports " in line for line in report.splitlines()[1:])


def test_a_door_that_re_exports_its_rooms_is_no_circle(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from svgdx.x import A",
        "x/__init__.py": "from svgdx.x.a import A",
        "x/a.py": "from svgdx.x import b\nfrom svgdx.y.c import C",
        "x/b.py": "from svgdx import y",
        "y/c.py": "",
    }
    package = plant(tmp_path, files)
    assert circles_in(imports_of(package)) == []
    # The same door closes a circle once a room takes from it what it takes from the room.
    (package / "x" / "a.py").write_text("from svgdx.x import B")
    assert len(circles_in(imports_of(package))) == 1


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("experiments/run/loop.py", "from svgdx.experiments import ebm"),
        ("experiments/data/images.py", "def f():\n    from svgdx.experiments.rl.report import Group"),
        ("experiments/metrics/bits.py", "if TYPE_CHECKING:\n    import svgdx.experiments.eb_gfn.train"),
        ("experiments/ebm/report.py", "from svgdx.experiments.rl import report"),
        ("samplers/svgd.py", "from svgdx import distributed"),
        ("samplers/mcmc/gibbs.py", "from ...distributed.shards import Shards"),
        ("experiments/run/settings.py", "from svgdx import cli"),
    ],
)
def test_a_planted_import_upward_is_seen(tmp_path: Path, module: str, statement: str) -> None:
    rest = {
        "experiments/ebm/a.py": "from svgdx.experiments.run import loop\nfrom svgdx.experiments.ebm import report",
        "experiments/rl/report.py": "", "experiments/eb_gfn/train.py": "",
        "distributed/shards.py": "from svgdx import samplers", "samplers/state.py": "", "cli.py": "",
        "__main__.py": "from svgdx.cli import main",
    }  # fmt: skip
    assert upward(imports_of(plant(tmp_path, rest))) == []
    assert upward(imports_of(plant(tmp_path, {module: statement}))) != []


def test_a_planted_local_import_is_seen(tmp_path: Path) -> None:
    text = "def f():\n    import numpy\n    from svgdx.b import B"
    package = plant(tmp_path, {"a.py": text, "cli.py": text, "b.py": "import svgdx.c", "c.py": ""})
    assert local(imports_of(package)) == ["svgdx.a:3 imports svgdx.b"]


def test_a_planted_intrusion_is_seen(tmp_path: Path) -> None:
    private = '"""Private to svgdx.x.y."""'
    inside = {"x/y/_p.py": private, "x/y/q.py": "from svgdx.x.y import _p", "_top.py": "", "x/y/z/r.py": ""}
    package = plant(tmp_path, inside | {"x/s.py": "from svgdx import _top"})
    assert intrusions(imports_of(package)) + without_door(package) == []
    plant(tmp_path, {"x/s.py": "def f():\n    from .y._p import P", "x/y/_p.py": '"""Private."""'})
    assert intrusions(imports_of(package)) == ["svgdx.x.s:2 imports svgdx.x.y._p"]
    assert without_door(package) == ["svgdx.x.y._p does not name its door"]


def test_planted_folders_and_names_are_seen(tmp_path: Path) -> None:
    files = {f"many/f{number}.py": "" for number in range(11)} | {f"room/f{number}.py": "" for number in range(10)}
    files |= {"few/a.py": "", "few/b.py": "", "hall/three/a.py": "", "hall/three/b.py": ""}
    package = plant(tmp_path, files | {"hall/three/c.py": "", "a.py": "", "b.py": "", "__main__.py": ""})
    counts = ["svgdx/few has 2 Python files", "svgdx/many has 11 Python files"]
    assert rooms.crowded_or_empty(package) == counts
    assert rooms.repeated_names(package) == []
    names = ("room/room.py", "few/_few_plots.py", "targets/target.py", "targets/best_target.py", "eb_gfn/my_eb_gfn.py")
    plant(tmp_path, dict.fromkeys(names, ""))
    assert rooms.repeated_names(package) == sorted(f"svgdx/{name}" for name in names)


def test_planted_lengths_are_seen(tmp_path: Path) -> None:
    function = 'def f():\n    """Says\n    much."""\n' + "    pass\n" * 59
    package = plant(tmp_path, {"a.py": "\n" * 400, "b.py": function})
    assert rooms.long_files(package) + rooms.long_functions(package) == []
    method = textwrap.indent(f"async {function}    pass\n", "    ")
    plant(tmp_path, {"a.py": "\n" * 401, "b.py": f"class A:\n{method}"})
    assert rooms.long_files(package) == ["svgdx/a.py has 401 lines"]
    assert rooms.long_functions(package) == ["svgdx/b.py:2 f has 61 lines"]


def test_planted_mentions_are_seen(tmp_path: Path) -> None:
    plant(tmp_path, {"a.py": "class A:\n    x = 1\n\n    def f(self):\n        self.y = 2", "x/b.py": "B = 1"})
    (tmp_path / "csrc" / "simt").mkdir(parents=True)
    source = tmp_path / "csrc" / "simt" / "warp.h"
    good = "svgdx/a.py svgdx/x a.py simt/warp.h csrc/simt/ svgdx.a.A.f svgdx.a.A.y svgdx.x.b.B svgdx.x <svgdx/*.py> A/B"
    source.write_text(f'#include "gone/host.h"  // {good}')
    assert mentions.missing(tmp_path, ["svgdx", "csrc"]) == []
    bad = ["svgdx/c.py", "host.h", "simt/warp.cuh", "svgdx.a.B", "svgdx.a.A.z", "svgdx.nn.conv", "csrc/svgd"]
    source.write_text(f"/* {' '.join(bad)} */")
    assert sorted(mentions.missing(tmp_path, ["csrc"])) == sorted(f"csrc/simt/warp.h:1 mentions {name}" for name in bad)
    for text in ('"""See {}."""', "# {}", "def f():\n    '''{}'''"):
        plant(tmp_path, {"d.py": text.format("svgdx.a.B")})
        (offence,) = mentions.missing(tmp_path, ["svgdx"])
        assert offence.endswith("mentions svgdx.a.B")
    plant(tmp_path, {"d.py": "name = 'svgdx.a:B'"})
    assert mentions.missing(tmp_path, ["svgdx"]) == ["svgdx/d.py:1 mentions svgdx.a.B"]
    plant(tmp_path, {"d.py": "name = 'svgdx.a.B'"})
    assert mentions.missing(tmp_path, ["svgdx"]) == []
