"""Instruction sets: code of the wider ones stays in their namespaces, and every set gives the reference's results."""

from __future__ import annotations

import os
import pathlib
import platform
import re
import shutil
import subprocess

import forkserver
import pytest

from svgdx import _library

LIBRARY = _library.libraries["cpu"].path


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 instruction names")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_wide_instructions_only_in_their_namespaces() -> None:
    """No shared code has wide instructions: of an inline function shared by the sets, the linker keeps one copy."""
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
    """Every instruction set of this machine gives the reference's numbers and bit-equal draws; SVGDX_ISA can only
    select a lower one.
    """
    program = """
import torch, svgdx
from svgdx import reference
torch.manual_seed(0)
for batch, m, d in [(40, 10, 6), (1, 50, 3), (1, 70, 20), (1, 40, 200)]:
    x, s = torch.randn(2, batch, m, d, dtype=torch.float64)
    for got, want in zip(svgdx.ops.svgd_phi_trace(x, s, 2.0), reference.svgd_phi_trace(x, s, 2.0)):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
for dim in (5, 32, 100):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        logits = (3 * torch.randn(40, dim + 1, 3 * dim)).to(dtype)
        actions = 2 * torch.rand(40, dim).argsort(-1) + torch.randint(0, 2, (40, dim))
        for got, want in zip(svgdx.ops.gfn_trajectory_log_prob(logits, actions),
                             reference.gfn_trajectory_log_prob(logits.double(), actions)):
            torch.testing.assert_close(got.double(), want, rtol=2e-6, atol=1e-4)
        state = torch.randint(-1, 2, (40, dim), dtype=torch.int8)
        state[:, 0], state[:, 1] = -1, 1
        for name in ("gfn_sample_forward", "gfn_sample_backward"):
            arguments = (logits[:, 0], state, 3, 4, 0.8, 0.1)
            got, want = (getattr(ops, name)(*arguments) for ops in (svgdx.ops, reference))
            assert torch.equal(got[0], want[0]) and torch.equal(got[2], want[2]), (name, dim, dtype)
"""
    result = forkserver.run(["-c", program], tmp_path, os.environ | {"SVGDX_ISA": level})
    assert result.returncode == 0, result.stderr
