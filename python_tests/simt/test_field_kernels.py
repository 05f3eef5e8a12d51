"""The CUDA kernels of the field ops on the host: errors against float64, and no reports from the checked build."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from simt import harness
from simt import svgd_oracle as oracle
from simt.svgd_cases import SCHEDULES, TOLERANCE, TYPES, Run, assert_close, draw, wide

# batch, rows (0: the particles themselves), particles, dim: every padded dimension, both sides of every tile.
FIELD = [
    (1, 0, 1, 1),
    (2, 0, 10, 1),
    (3, 0, 33, 2),
    (2, 0, 129, 3),
    (1, 0, 70, 4),
    (256, 0, 3, 6),
    (1, 0, 140, 8),
    (2, 0, 37, 13),
    (2, 0, 65, 16),
    (2, 0, 10, 17),
    (1, 0, 131, 24),
    (1, 0, 70, 50),
    (1, 0, 20, 200),
    (2, 5, 1, 2),
    (1, 1, 4100, 3),  # columns split over blocks
    (2, 150, 40, 7),
    (1, 150, 3, 33),
    (1, 3, 300, 20),
]
CHECKED_FIELD = [
    (1, 0, 1, 1),
    (2, 0, 35, 2),
    (1, 0, 70, 6),
    (1, 0, 9, 13),
    (2, 0, 7, 17),
    (1, 3, 66, 20),
    (1, 1, 4100, 2),
    (2, 40, 35, 2),  # no Stein summand between the barriers of the tiles
    (1, 9, 4100, 2),  # split columns with several rows
]


class FieldCase:
    """Inputs of the field ops, with bandwidths near the distances, so that every pair matters."""

    def __init__(self, kind: str, shape: tuple[int, int, int, int], seed: int) -> None:
        self.kind, (self.batch, rows, self.m, self.dim) = kind, shape
        self.itself = rows == 0
        self.rows = rows or self.m
        rng = np.random.default_rng(seed)
        self.x = draw(rng, kind, self.batch, self.m, self.dim)
        self.score = draw(rng, kind, *self.x.shape)
        self.query = self.x if self.itself else draw(rng, kind, self.batch, self.rows, self.dim)
        self.sigma = (np.sqrt(self.dim) * rng.uniform(0.6, 1.2, self.batch)).astype(TYPES[kind])
        self.step = rng.uniform(0.1, 0.5, 1).astype(TYPES[kind])
        self.log_q = draw(rng, kind, self.batch, self.rows)
        self.hessian_trace = draw(rng, kind, self.batch, self.rows)
        self.g = draw(rng, kind, *self.query.shape)
        self.h = draw(rng, kind, self.batch, self.rows)

    def empty(self, *shape: int) -> np.ndarray:
        return np.full(shape, np.nan, TYPES[self.kind])

    def entries(self) -> list[tuple[Any, ...]]:
        return [
            (wide(self.query[b]), wide(self.x[b]), wide(self.score[b]), float(self.sigma[b]), self.itself)
            for b in range(self.batch)
        ]

    def fields(self, **more: Any) -> Run:
        shape = {"batch": self.batch, "rows": self.rows, "cols": self.m, "dim": self.dim}
        return {**shape, "bandwidth": self.sigma, "bandwidth_stride": 1, "self": int(self.itself), **more}


def run_forward(simt: harness.Simt, case: FieldCase, step: bool, **options: Any) -> harness.Result:
    phi, trace = case.empty(*case.query.shape), case.empty(case.batch, case.rows)
    stein = case.empty(case.batch, case.rows) if case.itself else None
    args = case.fields(query=case.query, x=case.x, score=case.score, phi=harness.out(phi), trace=harness.out(trace))
    if case.itself:
        args.update(stein=harness.out(stein), stein_diagonal=int(not step))
    if step:
        args.update(step=case.step, log_q=case.log_q, hessian_trace=case.hessian_trace)
    result = simt.call(f"field_forward.{case.kind}", args, **options)
    expected = [oracle.field(*entry) for entry in case.entries()]
    e_phi, e_trace = np.stack([e[0] for e in expected]), np.stack([e[1] for e in expected])
    if stein is not None:
        score, beta = wide(case.score), 1 / wide(case.sigma)[:, None] ** 2
        diagonal = -(score * score).sum(-1) if step else beta * case.dim
        e_stein = (score * e_phi).sum(-1) + e_trace + diagonal / case.m
        assert_close(stein, e_stein, case.kind, scale=case.dim)
    if step:
        eps = float(case.step[0])
        e_phi = wide(case.query) + eps * e_phi
        e_trace = wide(case.log_q) - eps * (e_trace + wide(case.hessian_trace) / case.m)
    assert_close(phi, e_phi, case.kind)
    assert_close(trace, e_trace, case.kind)
    return result


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", FIELD, ids=str)
def test_field_forward(kind: str, shape: tuple[int, int, int, int]) -> None:
    for seed in range(3):
        run_forward(harness.load("fast"), FieldCase(kind, shape, seed), step=seed == 1, seed=seed)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", CHECKED_FIELD, ids=str)
def test_field_forward_checked(kind: str, shape: tuple[int, int, int, int]) -> None:
    for seed, preempt in SCHEDULES:
        run_forward(
            harness.load("checked"), FieldCase(kind, shape, seed), step=seed == 1, seed=seed, preempt=preempt
        ).check()


def backward_passes(case: FieldCase, step: bool) -> list[tuple[Run, dict[str, np.ndarray]]]:
    """Run one backward pass over the particles, or one over the queries and one over the particles."""
    common = case.fields(origin=np.ascontiguousarray(case.x[:, 0]), origin_stride=case.dim, particles=case.m)
    if step:
        common.update(step=case.step, hessian_trace=case.hessian_trace)
    query: Run = {"row_x": case.query, "row_grad_phi": case.g, "row_grad_trace": case.h}
    columns: Run = {"col_x": case.x, "col_score": case.score}
    if case.itself:
        query.update(row_score=case.score, **columns, col_grad_phi=case.g, col_grad_trace=case.h)
        passes = [query]
    else:
        particles: Run = {"row_x": case.x, "row_score": case.score, "rows": case.m, "cols": case.rows}
        particles.update(col_x=case.query, col_grad_phi=case.g, col_grad_trace=case.h)
        passes = [{**query, **columns}, particles]
    runs = []
    for arrays in passes:
        outputs = {"grad_x": case.empty(*arrays["row_x"].shape), "euler": case.empty(*arrays["row_x"].shape[:2])}
        if "row_score" in arrays:
            outputs["grad_score"] = case.empty(*case.score.shape)
        if step:
            outputs["dot"] = case.empty(case.batch, case.rows)
        runs.append(({**common, **arrays, **{k: harness.out(v) for k, v in outputs.items()}}, outputs))
    return runs


def run_backward(simt: harness.Simt, case: FieldCase, step: bool, **options: Any) -> list[harness.Result]:
    runs = backward_passes(case, step)
    results = [simt.call(f"field_backward.{case.kind}", args, **options) for args, _ in runs]
    outputs = [out for _, out in runs]
    eps = float(case.step[0]) if step else 1.0
    g, h = eps * wide(case.g), (-eps if step else 1.0) * wide(case.h)
    expected = [oracle.field_grad(*entry, g[b], h[b]) for b, entry in enumerate(case.entries())]
    d_query, d_x, d_score = (np.stack([e[k] for e in expected]) for k in range(3))
    extra = wide(case.g) if step else 0.0  # the step's identity path
    factor = 4.0
    if case.itself:
        assert_close(outputs[0]["grad_x"], d_query + d_x + extra, case.kind, factor=factor)
    else:
        assert_close(outputs[0]["grad_x"], d_query + extra, case.kind, factor=factor)
        assert_close(outputs[1]["grad_x"], d_x, case.kind, factor=factor)
    assert_close(outputs[-1]["grad_score"], d_score, case.kind, factor=factor)
    euler = [out["euler"].astype(np.float64) for out in outputs]
    terms = sum(np.abs(e).sum(1) for e in euler)
    d_sigma = np.array([e[3] for e in expected])
    assert (np.abs(sum(e.sum(1) for e in euler) - d_sigma) <= 10 * TOLERANCE[case.kind] * np.maximum(terms, 1)).all()
    if step:
        phi, trace = (np.stack(v) for v in zip(*[oracle.field(*entry) for entry in case.entries()], strict=True))
        e_dot = (wide(case.g) * phi).sum(-1) - wide(case.h) * (trace + wide(case.hessian_trace) / case.m)
        assert_close(outputs[0]["dot"], e_dot, case.kind, scale=case.dim, factor=factor)
    return results


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", FIELD, ids=str)
def test_field_backward(kind: str, shape: tuple[int, int, int, int]) -> None:
    for seed in range(2):
        run_backward(harness.load("fast"), FieldCase(kind, shape, seed), step=seed == 1 and shape[1] == 0, seed=seed)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", CHECKED_FIELD, ids=str)
def test_field_backward_checked(kind: str, shape: tuple[int, int, int, int]) -> None:
    for seed, preempt in SCHEDULES:
        case = FieldCase(kind, shape, seed)
        for result in run_backward(
            harness.load("checked"), case, step=seed == 1 and case.itself, seed=seed, preempt=preempt
        ):
            result.check()
