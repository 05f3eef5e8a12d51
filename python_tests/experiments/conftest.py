from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

# Files of tests that look at what `quick` leaves out, and those that choose themselves.
WHOLE = ("test_bits", "test_figures", "test_images", "test_ising", "test_report", "test_sample", "test_stored")


@pytest.fixture(scope="module", autouse=True)
def _quick(request: pytest.FixtureRequest) -> Iterator[None]:
    """Trainings are short."""
    pytest.importorskip("matplotlib", reason="training needs the packages of svgdx[train]")
    from quick import quick

    if Path(request.module.__file__).stem in WHOLE:
        yield
        return
    with quick():
        yield
