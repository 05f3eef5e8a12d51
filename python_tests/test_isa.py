"""Kernels of the wider instruction sets stay in their own namespaces: nothing else in the library may need them."""

from __future__ import annotations

import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

import pytest

from svgdx import _library

LIBRARY = _library.libraries["cpu"].path


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 instruction names")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_wide_instructions_only_in_their_namespaces() -> None:
    """An inline function shared by the sets is one symbol, and the linker keeps one copy of it."""
    listing = subprocess.Popen(["objdump", "-d", "--no-show-raw-insn", LIBRARY], stdout=subprocess.PIPE, text=True)
    assert listing.stdout is not None
    strangers, wide, function = set(), 0, ""
    for line in listing.stdout:
        if line.endswith(">:\n"):
            function = line
        elif re.search(r"%[yz]mm|\tv[a-z0-9]+ ", line):
            wide += 1
            if not re.search(r"4avx2|6avx512", function):
                strangers.add(function)
    assert listing.wait() == 0
    assert wide > 1000
    assert not strangers


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_levels_agree(level: str, tmp_path: pathlib.Path) -> None:
    """Every instruction set this machine has gives the reference's numbers; SVGDX_ISA only ever lowers the choice."""
    program = """
import torch, svgdx
from svgdx import reference
torch.manual_seed(0)
for batch, m, d in [(40, 10, 6), (1, 50, 3), (1, 70, 20), (1, 40, 200)]:
    x, s = torch.randn(2, batch, m, d, dtype=torch.float64)
    for got, want in zip(svgdx.ops.svgd_phi_trace(x, s, 2.0), reference.svgd_phi_trace(x, s, 2.0)):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "SVGDX_ISA": level}, cwd=tmp_path)
