"""The tables of the benchmarks, and the warnings of rows that lost 10 %."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import history
import pytest
import render

MACHINE = {"chip": "a chip", "ceiling": 100.0, "products": {"torch.mm": 100.0}, "versions": {"torch": "2.13"}}


def entry(peer: str, cpu: float, wall: float, shape: list[int] | None = None, **extra: float) -> dict[str, Any]:
    params = {"peer": peer} if shape is None else {"peer": peer, "shape": shape}
    numbers = {"cpu": cpu, "sizes": "B, M", **extra}
    return {
        "name": f"test_forward[{peer}]",
        "group": "a whole",
        "params": params,
        "extra_info": numbers,
        "stats": {"median": wall},
    }


def written(folder: Path, entries: list[dict[str, Any]]) -> Path:
    run = {
        "machine_info": {"cpu": {}, "facts": MACHINE},
        "commit_info": {"id": "0123456789ab", "dirty": False},
        "datetime": "2026-11-28T21:00:00",
        "benchmarks": entries,
    }
    path = folder / "run.json"
    path.write_text(json.dumps(run))
    return path


def test_tables_have_both_times_the_best_peer_and_the_ceiling(tmp_path: Path) -> None:
    # 10^8 operations take 1 ms at 100 GFLOP/s.
    run = written(
        tmp_path,
        [
            entry("svgdx", 0.002, 0.0021, [4, 8], flops=1e8),
            entry("eager", 0.006, 0.0061, [4, 8]),
            entry("jax", 0.8, 0.9, [4, 8], calls=200),
        ],
    )
    render.main(str(run), str(tmp_path / "table"))
    row = next(line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| 4, 8"))
    assert row == "| 4, 8 | 2 / 2.1 | 6 / 6.1 | 4 / 4.5 | **2.0×** (jax) | 1 | 50 % |"
    results = json.loads((tmp_path / "table.json").read_text())
    assert results["machine"] == MACHINE
    assert (tmp_path / "table.png").stat().st_size > 0


def test_parts_of_a_whole_are_rows_of_its_table_even_without_a_peer(tmp_path: Path) -> None:
    run = written(tmp_path, [entry("svgdx", 0.002, 0.002)])
    render.main(str(run), str(tmp_path / "table"))
    assert "| forward | 2 / 2 | – |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("chip", "ceiling", "cpu", "warned"),
    [
        ("a chip", 100.0, 0.0023, True),
        ("a chip", 100.0, 0.0021, False),
        ("a chip", 80.0, 0.0023, False),  # the machine is slower now, not the row
        ("another", 100.0, 0.0040, False),
    ],
)
def test_a_row_that_lost_ten_percent_is_named(
    tmp_path: Path, chip: str, ceiling: float, cpu: float, warned: bool
) -> None:
    stored = {"field": render.load(written(tmp_path, [entry("svgdx", 0.002, 0.002, [4, 8])]))}
    machine = MACHINE | {"chip": chip, "ceiling": ceiling}
    warnings = history.losses(stored, machine, {("field", "forward", "4, 8"): cpu})
    assert len(warnings) == warned
    if warned:
        assert warnings[0] == ("warning: field, forward, 4, 8: 2.3 CPU-ms, 15 % more than 2 of commit 012345678")
