"""The CPU library alone, loaded by torch.ops.load_library in a program that does not import svgdx."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from svgdx import _library, reference

CODE = """
import sys, torch
torch.ops.load_library(sys.argv[1])
x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 3, 2)
sigma = torch.tensor(0.7, dtype=torch.float64)
phi, trace = torch.ops.svgdx.svgd_phi_trace(x, -x, sigma)
phi_number, trace_number = torch.ops.svgdx.svgd_phi_trace(x, -x, 0.7)
assert torch.equal(phi, phi_number) and torch.equal(trace, trace_number)
assert torch.equal(torch.ops.svgdx.svgd_phi(x, -x, 0.7), phi)
x_next, log_q = torch.ops.svgdx.svgd_step(x, -x, 0.7, 0.1, x[..., 0])
field, divergence = torch.ops.svgdx.svgd_field(x, x, -x, 0.7)
sqnorm = torch.ops.svgdx.svgd_jacobian_sqnorm(x, -x, 0.7)
logdet = torch.ops.svgdx.svgd_logdet(x, -x, 0.7, 0.1)
ksd = torch.ops.svgdx.ksd(x, -x, 0.7)
median = torch.ops.svgdx.median_distance(x)
for number in (0.0, -1.0, float("nan"), float("inf")):
    try:
        torch.ops.svgdx.svgd_phi(x, -x, number)
    except RuntimeError as error:
        assert "bandwidth" in str(error), error
    else:
        raise AssertionError(number)
assert "svgdx" not in sys.modules
torch.save([phi, trace, x_next, log_q, field, divergence, sqnorm, logdet, ksd, median], sys.argv[2])
"""


def test_library_without_the_package(tmp_path: object) -> None:
    library = _library.libraries["cpu"]
    if not library.path.exists():
        pytest.fail(f"{library.path} is not built")
    result = subprocess.run(
        [sys.executable, "-c", CODE, str(library.path), f"{tmp_path}/out.pt"],
        capture_output=True,
        text=True,
        check=False,
        cwd=str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 3, 2)
    expected = [
        *reference.svgd_phi_trace(x, -x, 0.7),
        *reference.svgd_step(x, -x, 0.7, 0.1, x[..., 0]),
        *reference.svgd_field(x, x, -x, 0.7),
        reference.svgd_jacobian_sqnorm(x, -x, 0.7),
        reference.svgd_logdet(x, -x, 0.7, 0.1),
        reference.ksd(x, -x, 0.7),
        reference.median_distance(x),
    ]
    for out, value in zip(torch.load(f"{tmp_path}/out.pt"), expected, strict=True):
        torch.testing.assert_close(out, value, rtol=1e-10, atol=1e-12)
