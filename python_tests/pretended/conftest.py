from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every operation on the pretended GPU runs through Python, and so do those of the metrics and of pictures."""
    if request.node.path.stem in ("test_tool", "test_samplers"):
        yield
        return
    from quick import quick

    with quick():
        yield
