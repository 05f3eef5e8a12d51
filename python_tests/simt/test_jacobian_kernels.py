"""The CUDA kernels of the Jacobian ops on the host: errors against float64, and no reports from the checked build."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from simt import harness
from simt import svgd_oracle as oracle
from simt.svgd_cases import SCHEDULES, TOLERANCE, TYPES, Run, assert_close, draw, wide

# batch, particles, dim: every padded dimension, both sides of every tile.
SHAPES = [(1, 1, 1), (2, 10, 1), (1, 130, 2), (3, 7, 3), (2, 40, 4), (40, 10, 6), (1, 70, 8), (2, 9, 11), (1, 37, 16)]
CHECKED = [(2, 1, 1), (1, 35, 2), (1, 17, 4), (2, 9, 7), (1, 34, 13), (1, 5, 16)]
MODES = ["sqnorm", "sqnorm-probe", "logdet", "logdet-hessian"]


class Case:
    def __init__(self, kind: str, shape: tuple[int, int, int], mode: str, seed: int) -> None:
        self.kind, self.mode, (self.batch, self.m, self.dim) = kind, mode, shape
        rng = np.random.default_rng(seed)
        self.x, self.score = (draw(rng, kind, *shape) for _ in range(2))
        self.sigma = (np.sqrt(self.dim) * rng.uniform(0.6, 1.2, self.batch)).astype(TYPES[kind])
        self.step = rng.uniform(0.1, 0.5, self.batch).astype(TYPES[kind])
        self.probe = self.hvp = self.hessian = None
        if mode == "sqnorm-probe":
            self.probe, self.hvp = (draw(rng, kind, *shape) for _ in range(2))
        if mode == "logdet-hessian":
            # I + step J is near a random rotation: well conditioned, but elimination needs row exchanges.
            rotation = np.linalg.qr(rng.standard_normal((*shape, self.dim)))[0]
            scale = self.m / wide(self.step)[:, None, None, None]
            self.hessian = (scale * (2 * rotation - np.eye(self.dim))).astype(TYPES[kind])
        self.w = draw(rng, kind, self.batch, self.m)

    def fields(self) -> Run:
        fields: Run = {"batch": self.batch, "particles": self.m, "dim": self.dim, "x": self.x, "score": self.score}
        fields.update(bandwidth=self.sigma, bandwidth_stride=1)
        if self.mode.startswith("logdet"):
            return {**fields, "step": self.step, "step_stride": 1, "hessian": self.hessian}
        return {**fields, "probe": self.probe, "hvp": self.hvp}

    def expected(self, b: int) -> dict[str, Any]:
        """Value, A and the derivatives of w . value, for one batch entry."""
        x, score, sigma, w = wide(self.x[b]), wide(self.score[b]), float(self.sigma[b]), wide(self.w[b])
        a = oracle.jacobian(x, score, sigma)
        got: dict[str, Any] = {}
        if self.mode.startswith("logdet"):
            hessian = np.zeros(a.shape) if self.hessian is None else wide(self.hessian[b])
            got["out"], slope, step_slope = oracle.logdet(a, hessian, float(self.step[b]))
            got["grad_step"] = w * step_slope
            got["adjoint"] = w[:, None, None] * slope
            if self.hessian is not None:
                got["grad_hessian"] = got["adjoint"] / self.m
        else:
            zero = np.zeros(x.shape)
            probe, hvp = (zero, zero) if self.probe is None else (wide(self.probe[b]), wide(self.hvp[b]))
            got["out"], slope = oracle.sqnorm(a, probe, hvp)
            got["adjoint"] = w[:, None, None] * slope
            if self.probe is not None:
                got["grad_probe"] = 2 / self.m * w[:, None] * np.einsum("iab,ia->ib", a, hvp)
                av = np.einsum("iab,ib->ia", a, probe)
                got["grad_hvp"] = 2 / self.m * w[:, None] * (av + hvp / self.m)
        got["grad_x"], got["grad_score"] = oracle.jacobian_grad(x, score, sigma, got["adjoint"])
        # sigma dL/dsigma from the complex-step derivative.
        shifted = oracle.jacobian(x, score, sigma * (1 + 1e-30j)).imag / 1e-30
        got["d_sigma"] = (got["adjoint"] * shifted).sum()
        return got


def run_forward(simt: harness.Simt, case: Case, **options: Any) -> harness.Result:
    value = np.full((case.batch, case.m), np.nan, TYPES[case.kind])
    args = {**case.fields(), "out": harness.out(value)}
    result = simt.call(f"jacobian_forward.{case.kind}", args, **options)
    expected = np.stack([case.expected(b)["out"] for b in range(case.batch)])
    assert_close(value, expected, case.kind, scale=1.0, factor=4.0)
    return result


def run_backward(simt: harness.Simt, case: Case, **options: Any) -> harness.Result:
    expected = [case.expected(b) for b in range(case.batch)]
    outputs = {"euler": np.full((case.batch, case.m), np.nan, TYPES[case.kind])}
    for name in ("adjoint", "grad_x", "grad_score", "grad_step", "grad_hessian", "grad_probe", "grad_hvp"):
        if name in expected[0]:
            outputs[name] = np.full((case.batch, *expected[0][name].shape), np.nan, TYPES[case.kind])
    args = {**case.fields(), "grad_out": case.w, **{k: harness.out(v) for k, v in outputs.items()}}
    result = simt.call(f"jacobian_backward.{case.kind}", args, **options)
    factor = 8.0
    for name, got in outputs.items():
        if name != "euler":
            assert_close(got, np.stack([e[name] for e in expected]), case.kind, factor=factor)
    euler = wide(outputs["euler"])
    bound = 4 * factor * TOLERANCE[case.kind] * np.maximum(np.abs(euler).sum(1), 1)
    assert (np.abs(euler.sum(1) - [e["d_sigma"] for e in expected]) <= bound).all()
    return result


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_jacobian(kind: str, mode: str, shape: tuple[int, int, int]) -> None:
    for seed in range(2):
        case = Case(kind, shape, mode, seed)
        run_forward(harness.load("fast"), case, seed=seed)
        run_backward(harness.load("fast"), case, seed=seed)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("mode", ["sqnorm-probe", "logdet-hessian"])
@pytest.mark.parametrize("shape", CHECKED, ids=str)
def test_jacobian_checked(kind: str, mode: str, shape: tuple[int, int, int]) -> None:
    for seed, preempt in SCHEDULES:
        case = Case(kind, shape, mode, seed)
        run_forward(harness.load("checked"), case, seed=seed, preempt=preempt).check()
        run_backward(harness.load("checked"), case, seed=seed, preempt=preempt).check()


@pytest.mark.parametrize("kind", TYPES)
def test_singular_and_nan(kind: str) -> None:
    """A singular I + step J gives minus infinity; NaN stays in its batch entry."""
    case = Case(kind, (3, 1, 5), "logdet-hessian", 0)
    case.hessian = np.zeros((3, 1, 5, 5), TYPES[kind])
    case.hessian[0, 0, 2, 2] = -1 / case.step[0]
    case.step[0] = -1 / case.hessian[0, 0, 2, 2]
    case.x[1, 0, 3] = np.nan
    value = np.zeros((3, 1), TYPES[kind])
    harness.load("fast").call(f"jacobian_forward.{kind}", {**case.fields(), "out": harness.out(value)})
    assert value[0, 0] == -np.inf or value[0, 0] < np.log(np.finfo(TYPES[kind]).eps)
    assert np.isnan(value[1, 0])
    assert value[2, 0] == 0
