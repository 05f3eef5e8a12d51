"""bench/gpu/session.sh: its stages end within ten minutes, and its tables hold what the stages measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import torch

import svgdx
from svgdx import doctor

ROOT = Path(__file__).parents[2]
SESSION = ROOT / "bench" / "gpu" / "session.sh"


def test_the_limits_of_all_stages_add_up_to_ten_minutes() -> None:
    text = SESSION.read_text()
    limits = {name: int(seconds) for name, seconds in re.findall(r"^\s*stage (\S+) (\d+) ", text, re.MULTILINE)}
    rendered = int(re.findall(r'stage "render-\$name" (\d+)', text)[0])
    assert {"install", "doctor", "tests", "trainers", "sanitizer", "ops", "field", "tables"} <= limits.keys()
    assert sum(limits.values()) + 2 * rendered <= 600


def test_the_tables_hold_what_was_measured(tmp_path: Path) -> None:
    contents = {
        "stages": {"doctor": {"code": 0, "seconds": 3}},
        "ops": [
            {"op": "svgd_phi", "shape": [4, 512, 64], "gradients": True, "svgdx": 1e-3, "eager": 4e-3,
             "compiled": "RuntimeError: no compiler"},
        ],
        "trainers": {
            "updates": {
                "ebm met-svgd": {"seconds": {"cpu": 0.1, "off": 0.02, "auto": 0.005}},
                "rl met-svgd": {"skipped": "No module named 'gymnasium'"},
            },
            "numbers": {
                "ebm langevin": {
                    "off": {"deviation": 2e-6, "of": "nll"},
                    "auto": {"deviation": 3e-6, "of": "k", "lengths": ["eps"]},
                },
            },
        },
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "doctor.log").write_text(json.dumps(doctor.examine()))
    subprocess.run([sys.executable, "-I", str(SESSION.with_name("tables.py")), str(tmp_path)], check=True)
    table = (tmp_path / "session.md").read_text()
    for row in (
        f"; torch {torch.__version__}; svgdx {svgdx.__version__}, built by nvcc ",
        "| doctor | 0 | 3 |",
        "| svgd_phi, with gradients | 4, 512, 64 | 1 | 4 | RuntimeError: no compiler | 4.0× |",
        "| ebm met-svgd | 100 | 20 | 5 | 4.0× |",
        "| rl met-svgd | – | – | – | No module named 'gymnasium' |",
        "| ebm langevin | 2.0e-06 (nll) | 3.0e-06 (k); of other lengths: eps |",
    ):
        assert row in table
