"""Float64 oracles for the GFlowNet kernels, with an independent Philox and integer draw."""

from __future__ import annotations

import numpy as np

COMPUTE = {"float": np.float32, "double": np.float64, "Bf16": np.float32, "Fp16": np.float32}
LOW32 = 0xFFFFFFFF


def store(kind: str, values: np.ndarray) -> np.ndarray:
    """Round to the storage type; 16-bit formats are returned as uint16."""
    if kind == "Fp16":
        return values.astype(np.float16).view(np.uint16)
    if kind != "Bf16":
        return values.astype(COMPUTE[kind])
    bits = values.astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def load(kind: str, stored: np.ndarray) -> np.ndarray:
    """The numbers that a kernel computes with."""
    if kind == "Fp16":
        return stored.view(np.float16).astype(np.float32)
    if kind == "Bf16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored


def log_softmax(logits: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, float]:
    """Log-softmax over the valid entries, and their log-sum-exp."""
    x = np.where(valid, logits.astype(np.float64), -np.inf)
    top = x.max()
    normalizer = top + np.log(np.exp(x - top).sum()) if top != -np.inf else top
    return x - normalizer, normalizer


def set_times(actions: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """Set times; entry D is 1 for a valid trajectory. Other entries hold the earliest step even if invalid."""
    (batch, steps), dim = actions.shape, initial.shape[1]
    times = np.concatenate([np.where(initial == -1, steps, -1), np.ones((batch, 1), int)], 1).astype(np.int32)
    times[:, dim] = ((initial >= -1) & (initial <= 1)).all(1)
    for b in range(batch):
        for t, action in enumerate(actions[b]):
            if not 0 <= action < 2 * dim or times[b, action // 2] != steps:
                times[b, dim] = 0
            else:
                times[b, action // 2] = t
    return times


def sides(times: np.ndarray, action: np.ndarray, t: int):
    """Forward and backward (slice of the row, valid entries, entry taken) at s_t of one trajectory; None if no step."""
    dim, steps = len(times) - 1, len(action)
    void = times[:dim] >= t
    forward = (slice(0, 2 * dim), np.repeat(void, 2), action[t]) if t < steps else None
    backward = (slice(2 * dim, 3 * dim), ~void, action[t - 1] // 2) if t > 0 else None
    return forward, backward


def trajectory(logits: np.ndarray, actions: np.ndarray, times: np.ndarray, upstream: np.ndarray):
    """normalizers and row_log_prob (B, T+1, 2), and the gradient (B, T+1, 3D) of sum(upstream (B, 2) * sums)."""
    normalizers, log_prob = np.zeros((2, *logits.shape[:2], 2))
    grad = np.zeros(logits.shape)
    for b, t in np.ndindex(*logits.shape[:2]):
        if times[b, -1] == 0:
            normalizers[b], log_prob[b], grad[b] = np.nan, np.nan, np.nan
            continue
        for k, side in enumerate(sides(times[b], actions[b], t)):
            if side is not None:
                entries, valid, taken = side
                log_p, normalizers[b, t, k] = log_softmax(logits[b, t, entries], valid)
                log_prob[b, t, k] = log_p[taken]
                grad[b, t, entries] = upstream[b, k] * ((np.arange(len(valid)) == taken) - np.exp(log_p))
    return normalizers, log_prob, grad


def philox(seed: int, low: int, high: int) -> list[int]:
    """Philox4x32-10 of Salmon et al., SC 2011, in Python integers."""
    key = [seed & LOW32, seed >> 32 & LOW32]
    c = [low & LOW32, low >> 32 & LOW32, high & LOW32, high >> 32 & LOW32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ key[0], b & LOW32, a >> 32 ^ c[3] ^ key[1], a & LOW32]
        key = [key[0] + 0x9E3779B9 & LOW32, key[1] + 0xBB67AE85 & LOW32]
    return c


def weights(below: np.ndarray, scale: float) -> list[int]:
    """2^30 2^(below scale), with each operation rounded to float32."""
    f32 = np.float32
    with np.errstate(invalid="ignore"):
        y = np.maximum(below.astype(f32) * f32(scale), f32(-32))
    n = np.rint(y)
    f, p = y - n, f32(1.3264727e-3)
    for coefficient in (9.6715130e-3, 5.5507336e-2, 2.4022242e-1, 6.9314700e-1, 1.0):
        p = p * f + f32(coefficient)
    assert p.dtype == np.float32
    return [int(v) for v in np.ldexp(p.astype(np.float64), n.astype(int) + 30)]


def draw(logits: np.ndarray, valid: np.ndarray, seed: int, offset: int, row: int, scale: float, epsilon: float):
    """The drawn action, or -1 if there is none, for logits in the kernel's compute type."""
    x = logits[valid]
    if len(x) == 0 or not np.isfinite(x.max()):
        return -1
    words = philox(seed, row, offset)
    uniform = np.float32((words[2] >> 8) * 2.0**-24) < np.float32(epsilon)
    weight = [1] * len(x) if uniform else weights(x - x.max(), scale)
    threshold = sum(weight) * (words[1] << 32 | words[0]) >> 64
    total = 0
    for action, w in zip(np.flatnonzero(valid), weight, strict=True):
        total += w
        if total > threshold:
            return int(action)
    raise AssertionError("the threshold must be below the sum")
