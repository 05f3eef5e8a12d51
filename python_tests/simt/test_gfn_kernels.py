"""The CUDA kernels of the GFlowNet ops on the host: errors against float64, and no reports from the checked build."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from simt import gfn_oracle as oracle
from simt import harness

KINDS = list(oracle.COMPUTE)
TOLERANCE = {"float": 2e-6, "double": 1e-14, "Bf16": 2e-6, "Fp16": 2e-6}
ROUNDING = {
    "float": 2e-6,
    "double": 1e-14,
    "Bf16": 2.0**-8,
    "Fp16": 2.0**-10,
}  # rounding error of a gradient's storage type
SCHEDULES = [(0, 0.0), (1, 0.05)]

# batch, steps, dim: rows shorter than a pack, odd rows, groups of 8, 16 and 32 lanes, and of the whole block.
SHAPES = [(3, 1, 1), (2, 2, 2), (5, 5, 5), (3, 9, 21), (2, 4, 32), (1, 3, 101), (2, 1, 530)]
CHECKED = [(3, 2, 3), (2, 3, 21), (1, 1, 140), (1, 1, 530)]


class Case:
    """Trajectories; if there are several, the last ones fill only some of the void entries."""

    def __init__(self, kind: str, shape: tuple[int, int, int], seed: int) -> None:
        self.kind, (self.batch, self.steps, self.dim) = kind, shape
        self.compute = oracle.COMPUTE[kind]
        rng = np.random.default_rng(seed)
        order = np.argsort(rng.random((self.batch, self.dim)), 1)
        self.actions = (2 * order[:, : self.steps] + rng.integers(0, 2, (self.batch, self.steps))).astype(np.int64)
        self.initial = rng.integers(0, 2, (self.batch, self.dim)).astype(np.int8)
        stay_void = rng.random((self.batch, self.dim)) < 0.5
        for b in range(self.batch):
            self.initial[b, order[b, : self.steps]] = -1
            self.initial[b, stay_void[b]] = -1
        self.logits = oracle.store(kind, 3 * rng.standard_normal((self.batch, self.steps + 1, 3 * self.dim)))
        self.upstream = rng.standard_normal((self.batch, 2)).astype(self.compute)

    def shape(self) -> dict[str, int]:
        return {"batch": self.batch, "steps": self.steps, "dim": self.dim}

    def empty(self, *shape: int) -> np.ndarray:
        return np.full(shape, 7, self.compute)

    def expected(self) -> tuple[np.ndarray, ...]:
        times = oracle.set_times(self.actions, self.initial)
        return oracle.trajectory(oracle.load(self.kind, self.logits), self.actions, times, self.upstream)


def assert_close(got: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Error relative to the size of the numbers, at least 1; NaNs must match."""
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def run_set_times(simt: harness.Simt, case: Case, **options: Any) -> tuple[np.ndarray, harness.Result]:
    times = np.zeros((case.batch, case.dim + 1), np.int32)
    initial = None if (case.initial == -1).all() else case.initial
    fields = {**case.shape(), "actions": case.actions, "initial": initial}
    return times, simt.call("trajectory_set_times", {**fields, "set_time": harness.out(times)}, **options).check()


def run_forward(simt: harness.Simt, case: Case, **options: Any) -> list[harness.Result]:
    """Run set times, rows (in one or two launches) and sums."""
    times, result = run_set_times(simt, case, **options)
    np.testing.assert_array_equal(times, oracle.set_times(case.actions, case.initial))
    normalizers, log_prob, _ = case.expected()
    rows = case.batch * (case.steps + 1)
    got_normalizers, got_log_prob = case.empty(rows, 2), case.empty(rows, 2)
    flat, results = case.logits.reshape(rows, 3 * case.dim), [result]
    cut = 1 if options.get("seed") else 0
    for first, last in ((0, cut), (cut, rows)):
        fields = {**case.shape(), "first_row": first, "rows": last - first, "logits": flat[first:last]}
        whole = (lambda a: harness.out(a)) if cut == 0 and last > first else (lambda a: a)
        outputs = {"normalizers": whole(got_normalizers), "row_log_prob": whole(got_log_prob)}
        args = {**fields, "actions": case.actions, "set_time": times, **outputs}
        results.append(simt.call(f"trajectory_rows.{case.kind}", args, **options).check())
    assert_close(got_normalizers.reshape(normalizers.shape), normalizers, TOLERANCE[case.kind])
    assert_close(got_log_prob.reshape(log_prob.shape), log_prob, TOLERANCE[case.kind])
    log_pf, log_pb = case.empty(case.batch), case.empty(case.batch)
    sum_kind = "double" if case.kind == "double" else "float"
    args = [case.batch, case.steps, got_log_prob, harness.out(log_pf), harness.out(log_pb)]
    results.append(simt.call(f"trajectory_sum.{sum_kind}", *args, **options).check())
    sums = got_log_prob.reshape(log_prob.shape).astype(np.float64).sum(1)
    assert_close(np.stack([log_pf, log_pb], 1), sums, 2 * np.finfo(case.compute).eps)
    return results


def run_backward(
    simt: harness.Simt, case: Case, upstream: str = "both", alias: bool = False, skip: int = 0, **options: Any
) -> harness.Result:
    normalizers, _, expected = case.expected()
    case.upstream *= {"both": [1, 1], "pf": [1, 0], "pb": [0, 1]}[upstream]
    expected = case.expected()[2]
    logits = np.concatenate([case.logits.reshape(-1)[:1].repeat(skip), case.logits.reshape(-1)])
    grad = logits if alias else np.zeros(case.logits.shape, case.logits.dtype)
    args = {
        **case.shape(),
        "rows": case.batch * (case.steps + 1),
        "logits": logits,
        "logits_skip": skip,
        "actions": case.actions,
        "set_time": oracle.set_times(case.actions, case.initial),
        "normalizers": normalizers.astype(case.compute),
        "grad_log_pf": None if upstream == "pb" else np.ascontiguousarray(case.upstream[:, 0]),
        "grad_log_pb": None if upstream == "pf" else np.ascontiguousarray(case.upstream[:, 1]),
        "grad_logits": grad if alias else harness.out(grad),
    }
    result = simt.call(f"trajectory_rows_backward.{case.kind}", args, **options).check()
    got = oracle.load(case.kind, grad).reshape(expected.shape)
    assert_close(got, expected, ROUNDING[case.kind])
    assert (got[expected == 0] == 0).all()
    return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_trajectory(kind: str, shape: tuple[int, int, int]) -> None:
    simt = harness.load("fast")
    run_forward(simt, Case(kind, shape, 0))
    run_forward(simt, Case(kind, shape, 1), seed=1)
    for seed, (upstream, alias) in enumerate([("both", False), ("pf", False), ("pb", True)]):
        run_backward(simt, Case(kind, shape, seed), upstream, alias, seed=seed)
    run_backward(simt, Case(kind, shape, 3), skip=3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", CHECKED, ids=str)
def test_trajectory_checked(kind: str, shape: tuple[int, int, int]) -> None:
    for seed, preempt in SCHEDULES:
        run_forward(harness.load("checked"), Case(kind, shape, seed), seed=seed, preempt=preempt)
        run_backward(harness.load("checked"), Case(kind, shape, seed), alias=seed == 1, seed=seed, preempt=preempt)


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3), (2, 0, 0), (2, 1, 0)], ids=str)
def test_empty_trajectories(shape: tuple[int, int, int]) -> None:
    """Without trajectories or steps the sums are zero; a step without locations is invalid."""
    case = Case("float", (shape[0], 0, shape[2]), 0)
    case.steps = shape[1]
    case.actions = np.zeros(shape[:2], np.int64)
    case.logits = np.zeros((shape[0], shape[1] + 1, 3 * shape[2]), np.float32)
    run_forward(harness.load("checked"), case)
    run_backward(harness.load("checked"), case)


def spoil(case: Case) -> None:
    """Trajectories of which the first five each violate a different rule."""
    case.actions[0, 2] = 2 * case.dim
    case.actions[1, 0] = -1
    case.actions[2, 3] = case.actions[2, 1] ^ 1
    case.initial[3, case.actions[3, 1] // 2] = 0
    case.initial[4, 0] = 2


@pytest.mark.parametrize("kind", KINDS)
def test_invalid_trajectories_are_nan(kind: str) -> None:
    """Invalid trajectories are NaN, and their neighbours in the same block and warp are not."""
    for seed in range(3):
        case = Case(kind, (7, 4, 6), seed)
        spoil(case)
        assert np.isnan(case.expected()[0]).all((1, 2)).tolist() == 5 * [True] + 2 * [False]
        run_forward(harness.load("checked"), case, seed=seed)
        run_backward(harness.load("checked"), case, seed=seed)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_at_the_limits(kind: str) -> None:
    """Masked entries may be anything; a valid -inf has probability zero; a valid NaN or +inf gives NaN."""
    case = Case(kind, (6, 2, 5), 0)
    case.initial[:] = -1
    logits = oracle.load(kind, case.logits).astype(np.float64)
    times = oracle.set_times(case.actions, case.initial)
    for b, t in np.ndindex(6, 3):
        for side in oracle.sides(times[b], case.actions[b], t):
            if side is not None:
                entries, valid, taken = side
                logits[b, t, entries] = np.where(valid, logits[b, t, entries], [np.nan, np.inf, -np.inf][b % 3])
                if b == 3 and valid.sum() > 1:
                    logits[b, t, entries.start + np.flatnonzero(valid & (np.arange(len(valid)) != taken))[0]] = -np.inf
    logits[0, 0, (case.actions[0, 0] + 1) % 10] = np.nan
    logits[1, 1, case.actions[1, 1]] = np.inf
    logits[2, 0, :10] = -np.inf
    case.logits = oracle.store(kind, logits)
    with np.errstate(invalid="ignore"):
        assert np.isnan(case.expected()[1]).any((1, 2)).tolist() == [True] * 3 + [False] * 3
        run_forward(harness.load("checked"), case)
    case.batch, case.actions, case.initial = 3, case.actions[3:], case.initial[3:]
    case.logits, case.upstream = np.ascontiguousarray(case.logits[3:]), case.upstream[3:]
    run_backward(harness.load("checked"), case)


@pytest.mark.parametrize("shape", [(3, 5, 21), (1, 1, 530)], ids=str)
def test_same_bits_in_any_order(shape: tuple[int, int, int]) -> None:
    case = Case("float", shape, 0)
    times, rows = oracle.set_times(case.actions, case.initial), case.batch * (case.steps + 1)
    results = []
    for seed in range(3):
        outputs = {name: case.empty(rows, 2) for name in ("normalizers", "row_log_prob")}
        args = {**case.shape(), "rows": rows, "logits": case.logits, "actions": case.actions, "set_time": times}
        args.update({name: harness.out(array) for name, array in outputs.items()})
        harness.load("checked").call("trajectory_rows.float", args, seed=seed, preempt=0.1 * seed).check()
        results.append(np.stack(list(outputs.values())))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def masked_case(kind: str, rows: int, width: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, width)) < 0.6
    action = rng.integers(0, width, rows)
    mask[np.arange(rows), action] = True
    cuts = np.sort(rng.integers(0, rows + 1, 4))
    offsets = np.array([0, *cuts, rows], np.int64)  # trajectories are empty where cuts coincide
    return {
        "logits": oracle.store(kind, 3 * rng.standard_normal((rows, width))),
        "mask": mask,
        "action": action,
        "offsets": offsets,
        "grad": rng.standard_normal(5).astype(oracle.COMPUTE[kind]),
    }


def run_masked(
    simt: harness.Simt, kind: str, case: dict[str, np.ndarray], bad: tuple[int, ...] = (), skip: int = 0, **options: Any
) -> list[harness.Result]:
    """Run rows, sums over trajectories and the gradient; rows `bad` have a masked action."""
    (rows, width), compute = case["mask"].shape, oracle.COMPUTE[kind]
    segment = np.searchsorted(case["offsets"], np.arange(rows), side="right") - 1
    expected, grad = np.full((2, rows), np.nan), np.full((rows, width), np.nan)
    for n in sorted(set(range(rows)) - set(bad)):
        log_p, expected[0, n] = oracle.log_softmax(oracle.load(kind, case["logits"])[n], case["mask"][n])
        expected[1, n] = log_p[case["action"][n]]
        grad[n] = case["grad"][segment[n]] * ((np.arange(width) == case["action"][n]) - np.exp(log_p))
    got = np.full((2, rows), 7, compute)
    logits = np.concatenate([case["logits"].reshape(-1)[:1].repeat(skip), case["logits"].reshape(-1)])
    shared = {"rows": rows, "width": width, "logits": logits, "logits_skip": skip}
    shared.update(mask=case["mask"], action=case["action"])
    outputs = {"normalizers": harness.out(got[0]), "row_log_prob": harness.out(got[1])}
    results = [simt.call(f"masked_rows.{kind}", {**shared, **outputs}, **options).check()]
    assert_close(got, expected, TOLERANCE[kind])
    sums = np.full(5, 7, compute)
    args = [5, rows, case["offsets"], got[1], harness.out(sums)]
    results.append(simt.call(f"segment_sum.{'double' if compute is np.float64 else 'float'}", *args, **options).check())
    pairs = zip(case["offsets"][:-1], case["offsets"][1:], strict=True)
    assert_close(sums, np.array([got[1, i:j].astype(np.float64).sum() for i, j in pairs]), 2 * np.finfo(compute).eps)
    to = np.zeros(case["logits"].shape, case["logits"].dtype)
    args = {**shared, "segments": 5, "offsets": case["offsets"], "normalizers": got[0], "grad": case["grad"]}
    results.append(
        simt.call(f"masked_rows_backward.{kind}", {**args, "grad_logits": harness.out(to)}, **options).check()
    )
    assert_close(oracle.load(kind, to), grad, ROUNDING[kind])
    assert (oracle.load(kind, to)[grad == 0] == 0).all()
    return results


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5, 1), (17, 7), (9, 64), (3, 131), (2, 1100)], ids=str)
def test_masked(kind: str, shape: tuple[int, int]) -> None:
    for seed in range(2):
        run_masked(harness.load("fast"), kind, masked_case(kind, *shape, seed), seed=seed)
    run_masked(harness.load("fast"), kind, masked_case(kind, *shape, 2), skip=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(9, 6), (2, 300)], ids=str)
def test_masked_checked(kind: str, shape: tuple[int, int]) -> None:
    for seed, preempt in SCHEDULES:
        run_masked(harness.load("checked"), kind, masked_case(kind, *shape, seed), seed=seed, preempt=preempt)


def test_masked_bad_rows() -> None:
    """Actions that are out of range or masked give NaN in their own rows and trajectories only."""
    case = masked_case("float", 9, 6, 0)
    case["action"][[1, 4]] = 6, -1
    case["mask"][7, case["action"][7]] = False
    run_masked(harness.load("checked"), "float", case, bad=(1, 4, 7))


@pytest.mark.parametrize(
    ("offsets", "nan"),
    [
        ([0, 2, 5, 9], 0),
        ([1, 2, 5, 9], 1),
        ([0, 2, 5, 8], 4),
        ([0, 5, 2, 9], 2),
        ([0, 2, 10, 9], 6),
        ([-1, 2, 5, 9], 1),
    ],
    ids=str,
)
def test_segment_offsets(offsets: list[int], nan: int) -> None:
    """Invalid offsets give NaN; bit b of `nan` is set if trajectory b is affected."""
    values, sums = np.ones(9, np.float32), np.zeros(3, np.float32)
    args = [3, 9, np.array(offsets, np.int64), values, harness.out(sums)]
    harness.load("checked").call("segment_sum.float", *args).check()
    for b in range(3):
        assert np.isnan(sums[b]) if nan >> b & 1 else sums[b] == offsets[b + 1] - offsets[b]
