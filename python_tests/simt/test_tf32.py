"""Products in TF32 if torch permits them: the settings that do, and the bounds of docs/gpu_kernels.md on the errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ops.test_cuda import assert_float32
from simt import backend
from torch import Tensor

from svgdx import _library, doctor, ops, reference

ROUNDING = 2.0**-10  # of a product of two numbers that are rounded to 11 bits
SIGMA, BETA = 8.0, 1 / 64


@pytest.fixture
def tf32() -> Iterator[None]:
    """Permit TF32."""
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision("highest")


def phi_trace(x: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    with backend.running(seed=1):
        return ops.svgd_phi_trace(x, score, SIGMA)


def bounds(x: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds on the errors of phi and the trace, for any particle as the centre of X."""
    x, score = x.double(), score.double()
    r = x[:, None] - x
    squared = r.square().sum(-1)
    kappa = torch.exp(-BETA / 2 * squared)
    # |X_i|^2 + |X_j|^2 is at most twice the largest squared distance.
    exponent = ROUNDING * BETA * squared.max()
    z = score + BETA * r
    phi = torch.expm1(exponent) * torch.einsum("ij,ijd->id", kappa, z.abs())
    columns = score.abs() + BETA * r.abs().amax(0)
    phi = phi + torch.exp(exponent) * ROUNDING * kappa @ columns
    per_pair = torch.expm1(exponent) * (x.shape[-1] - (r * z).sum(-1)).abs()
    per_pair = per_pair + ROUNDING * squared.max().sqrt() * torch.linalg.vector_norm(score, dim=-1) + 2 * exponent
    trace = BETA * (kappa * per_pair).sum(1)
    return phi / len(x), trace / len(x)


@pytest.mark.parametrize("dim", [20, 50, 100, 131, 132])
def test_errors_are_bounded(dim: int) -> None:
    """With TF32, errors are larger than without and within the bound; without, the bits are those of before."""
    x, score = torch.randn(2, 66, dim)
    before = phi_trace(x, score)
    torch.set_float32_matmul_precision("high")
    permitted = phi_trace(x, score)
    torch.set_float32_matmul_precision("highest")
    assert all(torch.equal(a, b) for a, b in zip(before, phi_trace(x, score), strict=True))
    exact = reference.svgd_phi_trace(x.double(), score.double(), SIGMA)
    for out, default, expected, bound in zip(permitted, before, exact, bounds(x, score), strict=True):
        error = (out.double() - expected).abs()
        assert bool((error <= bound).all())
        assert error.norm() > 30 * (default.double() - expected).norm()


def test_errors_of_wide_blocks_of_rows(tf32: None) -> None:
    """In the kernel of many columns."""
    x, score = torch.randn(2, 1024, 11)
    with backend.running(seed=1, counters=True) as calls:
        phi, _ = ops.svgd_field(x[:33].expand(16, 33, 11), x.expand(16, 1024, 11), score.expand(16, 1024, 11), SIGMA)
    assert "(field_narrow_kernel<P, 2, Parts>)" in {counter.kernel for counter in calls[0].counters}
    exact, _ = reference.svgd_field(x[:33].double(), x.double(), score.double(), SIGMA)
    error = (phi.double() - exact).abs()
    assert bool((error <= bounds(x, score)[0][:33]).all())
    assert error.max() > 1e-5 * exact.abs().max()


@pytest.mark.parametrize(("dim", "far"), [(20, slice(1, None, 2)), (50, slice(1, None, 2)), (132, slice(1, None))])
def test_pairs_that_cancel_are_exact(dim: int, far: slice, tf32: None) -> None:
    """Particles far from the centre and close to one another, in each warp's pairs: they are formed by differences."""
    x, score = torch.randn(2, 66, dim)
    x[far] += 1e3
    assert_float32(phi_trace(x, score), reference.svgd_phi_trace(x.double(), score.double(), SIGMA))


@pytest.mark.parametrize("dim", [20, 50, 131])
def test_errors_of_gradients(dim: int) -> None:
    """Weights of pairs have the errors of kernel values, and each of the sums over columns that of a product."""
    x, score, grad_phi = torch.randn(3, 66, dim)
    upstream = (grad_phi, torch.randn(66))

    def gradients(op: Callable[..., tuple[Tensor, ...]], dtype: torch.dtype) -> tuple[Tensor, ...]:
        values = [value.to(dtype, copy=True).requires_grad_() for value in (x, score)]
        return torch.autograd.grad(op(*values, SIGMA), values, [value.to(dtype) for value in upstream])

    with backend.running(seed=1):
        before = gradients(ops.svgd_phi_trace, torch.float32)
        # The backward pass alone, so that it is this one that reads the setting.
        torch.set_float32_matmul_precision("high")
        permitted = gradients(ops.svgd_phi_trace, torch.float32)
        torch.set_float32_matmul_precision("highest")
        after = gradients(ops.svgd_phi_trace, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    exact = gradients(reference.svgd_phi_trace, torch.float64)
    relative = ROUNDING * (4 + BETA * torch.cdist(x, x).square().max().item())
    for grad, default, expected in zip(permitted, before, exact, strict=True):
        error = (grad.double() - expected).norm()
        assert 30 * (default.double() - expected).norm() < error <= relative * expected.norm()


@pytest.mark.parametrize(
    ("setting", "permits"),
    [
        ("", False),
        ("torch.backends.cuda.matmul.allow_tf32 = True", True),
        ("torch.set_float32_matmul_precision('medium')", True),
        ("torch.set_float32_matmul_precision('high'); torch.backends.cuda.matmul.allow_tf32 = False", False),
        ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", True),
        ("torch.backends.fp32_precision = 'tf32'", True),
        # Both ways of torch's, of which the last one counts, as in its own products.
        ("torch.set_float32_matmul_precision('high'); torch.backends.cuda.matmul.fp32_precision = 'ieee'", False),
        ("torch.backends.cuda.matmul.allow_tf32 = False; torch.backends.cuda.matmul.fp32_precision = 'tf32'", True),
    ],
)
def test_settings(setting: str, permits: bool) -> None:
    """Every setting of torch's is obeyed; in a process of its own, since not all of them can be taken back."""
    code = f"""
import torch
from simt import backend
from svgdx import ops
x, score = torch.randn(2, 20, 20)
def phi():
    with backend.running():
        return ops.svgd_phi(x, score, 4.0)
before = phi()
{setting}
print(torch.equal(before, phi()))
"""
    folder = backend.__file__.rsplit("/", 2)[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(not permits)


def test_doctor_reports_the_setting(tf32: None, monkeypatch: pytest.MonkeyPatch) -> None:
    library = _library.Library("cuda", Path(backend.load().simt.library._name), True, "")
    assert "permitted by" in doctor._tf32_setting(library)
    torch.set_float32_matmul_precision("highest")
    assert doctor._tf32_setting(library) == "not permitted"
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda path: SimpleNamespace(svgdx_tf32=lambda: -1))
    assert "cannot be read" in doctor._tf32_setting(library)
