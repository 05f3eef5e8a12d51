from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest) -> None:
    """Every operation on the pretended GPU runs through Python, and so do those of the metrics."""
    if request.node.path.stem not in ("test_tool", "test_samplers"):
        request.getfixturevalue("quick_metrics")
