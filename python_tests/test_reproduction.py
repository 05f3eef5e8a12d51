"""docs/reproduction.md is what its script writes from the committed reports."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproduction", ROOT / "docs" / "results" / "reproduction.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_that_of_the_committed_reports(page: ModuleType) -> None:
    assert (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8") == page.text()


def test_values_are_cells_of_reports_and_verdicts_follow_them(page: ModuleType, tmp_path: Path) -> None:
    page.DOCS = tmp_path
    (tmp_path / "results").mkdir()
    report = (
        "| a | b |\n|---|---|\n| x | 1.5 ± 0.1 |\n\n## Next\n\n| d |\n|---|\n\n| a | c |\n|---|---|\n| x | 1,024 |\n"
    )
    (tmp_path / "results" / "r.md").write_text(report + "\n- `svgdx sample x --out y`\n    svgdx sample x --out y-2\n")
    cell = page.Cell("r.md", "", ("x",), "b")
    assert page.value(cell) == "1.5 ± 0.1"
    assert page.value(page.Cell("r.md", "Next", ("x",), "c")) == "1,024"
    assert page.value(page.Cell("r.md", "Next", ("y",), "c")) == page.NONE
    assert page.value(page.Cell("none.md", "", ("x",), "b")) == page.NONE
    with pytest.raises(KeyError, match="no column 'e'"):
        page.value(page.Cell("r.md", "Next", ("x",), "e"))
    assert page.command("r.md", "--out y") == "svgdx sample x --out y"
    with pytest.raises(ValueError, match="no command contains"):
        page.command("r.md", "--out z")
    cells = (("n", cell),)
    assert page.verdict(page.Entry("s", "1.55", cells, tolerance=0.1)) == "reproduced"
    assert page.verdict(page.Entry("s", "1.7", cells, tolerance=0.1)) == "not reproduced: -0.2"
    assert page.verdict(page.Entry("s", "1.7", cells, tolerance=0.1, better=-1)) == "reproduced"
    assert page.verdict(page.Entry("s", "1.7")) == page.NONE
    low, high = ("b", cell), ("c", page.Cell("r.md", "Next", ("x",), "c"))
    reached = page.Entry("s", "", cells, tolerance=0.1, bounds=(high, low, high))
    assert page.verdict(reached) == "shown, within 0.1 of b: -1022.500 from c; +0.000 from b; -1022.500 from c"
    # The last one does not count.
    assert page.verdict(reached._replace(bounds=(high, low))).startswith("not reached: ")
