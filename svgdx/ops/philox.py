"""Philox words and the numbers made from them, in plain PyTorch: the arithmetic of the references of random draws.

Each operation rounds on its own, as in csrc/common/rounded.h, so that the references equal the kernels to the bit, but
for torch's square root of float64. Sources:
  [PHILOX] Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011: Philox4x32-10.
  [BM]     Box & Muller, A Note on the Generation of Random Normal Deviates, 1958.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LOW32 = 0xFFFFFFFF
# Philox blocks of a tile, see csrc/draw/numbers.h.
TILE = 32


def philox(seed: int | Tensor, counter_low: Tensor, counter_high: int | Tensor) -> tuple[Tensor, ...]:
    """Four 32-bit words, held as int64, for each counter: [PHILOX], key = seed, ten rounds."""
    key = [seed & LOW32, seed >> 32 & LOW32]
    c = [counter_low & LOW32, counter_low >> 32 & LOW32]
    c += [torch.zeros_like(counter_low) + word for word in (counter_high & LOW32, counter_high >> 32 & LOW32)]
    for _ in range(10):
        # The 64-bit products may wrap to negative numbers, but their bits are correct.
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [b >> 32 & LOW32 ^ c[1] ^ key[0], b & LOW32, a >> 32 & LOW32 ^ c[3] ^ key[1], a & LOW32]
        key = [key[0] + 0x9E3779B9 & LOW32, key[1] + 0xBB67AE85 & LOW32]
    return tuple(c)


def seed_and_offset(seed: int | Tensor, offset: int) -> tuple[int | Tensor, int | Tensor]:
    """The seed and the offset that an op with a key uses."""
    return (seed[0], seed[1] + offset) if isinstance(seed, Tensor) else (seed, offset)


def words_for(like: Tensor, per_block: int, seed: int | Tensor, offset: int) -> tuple[Tensor, ...]:
    """The words of enough blocks for the elements of ``like``, ``per_block`` numbers from each."""
    tiles = -(-like.numel() // (TILE * per_block))
    seed, high = seed_and_offset(seed, offset)
    return philox(seed, torch.arange(TILE * tiles, device=like.device), high)


def arranged(numbers: Sequence[Tensor], like: Tensor) -> Tensor:
    """The numbers of each block in the order of a tile, in the shape of ``like``."""
    tiles = torch.stack([number.view(-1, TILE) for number in numbers], 1)
    return tiles.flatten()[: like.numel()].view(like.shape)


def fraction53(high: Tensor, low: Tensor) -> Tensor:
    """The upper 53 of 64 bits, as a fraction in [0, 1)."""
    return high.double() * 2.0**-32 + (low >> 11).double() * 2.0**-53


def times_fraction(total: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """floor(total (2^32 high + low) / 2^64), 16 bits at a time, for total < 2^46."""
    result = torch.zeros_like(total)
    for word in (low, high):
        for limb in (word & 0xFFFF, word >> 16):
            result = result + limb * total >> 16
    return result


def normals_float32(words: Sequence[Tensor]) -> list[Tensor]:
    """Four float32 normals from each block: a magnitude of 30 bits and an angle of 32 for each pair, [BM]."""
    numbers: list[Tensor] = []
    for radius, angle in (words[:2], words[2:]):
        u = (radius >> 1 | 1).float() * 2.0**-31
        turned = angle << 2 & LOW32
        x = (turned - (turned >> 31 << 32)).float() * (math.pi / 2 * 2.0**-32)
        z = x * x
        sine = _polynomial(z, -1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1) * z * x + x
        cosine = _polynomial(z, 2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2) * z * z
        numbers += _pair(_log_float32(u), sine, cosine - 0.5 * z + 1.0, angle)
    return numbers


def normals_float64(words: Sequence[Tensor]) -> list[Tensor]:
    """Two float64 normals from each block: a magnitude of 53 bits and an angle of 55, [BM]."""
    u = fraction53(words[1], words[0]) + 2.0**-54
    x = (fraction53((words[3] << 2 | words[2] >> 30) & LOW32, words[2] << 2 & LOW32) - 0.5) * (math.pi / 2)
    z = x * x
    sine = _polynomial(
        z,
        1.58969099521155010221e-10,
        -2.50507602534068634195e-8,
        2.75573137070700676789e-6,
        -1.98412698298579493134e-4,
        8.33333333332248946124e-3,
        -1.66666666666666324348e-1,
    )
    cosine = _polynomial(
        z,
        -1.13596475577881948265e-11,
        2.08757232129817482790e-9,
        -2.75573143513906633035e-7,
        2.48015872894767294178e-5,
        -1.38888888888741095749e-3,
        4.16666666666666019037e-2,
    )
    return _pair(_log_float64(u), sine * z * x + x, cosine * z * z - 0.5 * z + 1.0, words[3])


def _pair(log_u: Tensor, sine: Tensor, cosine: Tensor, turn: Tensor) -> list[Tensor]:
    """r cos a and r sin a with r^2 = -2 ln u, the angle mirrored and turned by the upper two bits of ``turn``."""
    # In double precision, because torch's own square root of float32 is not always the nearest number.
    radius = (-2.0 * log_u).double().sqrt().to(log_u.dtype)
    radius = torch.where(turn >> 31 & 1 == 1, -radius, radius)
    mirrored = turn >> 30 & 1 == 1
    return [radius * torch.where(mirrored, sine, cosine), radius * torch.where(mirrored, cosine, sine)]


def _log_float32(u: Tensor) -> Tensor:
    root_half = 0x3F3504F3
    shifted = u.view(torch.int32) - root_half
    e = (shifted >> 23).float()
    f = ((shifted & 0x7FFFFF) + root_half).view(torch.float32) - 1.0
    square = f * f
    p = _polynomial(
        f,
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
    tail = p * square * f + e * -2.12194440e-4 - 0.5 * square
    return f + tail + e * 0.693359375


def _log_float64(u: Tensor) -> Tensor:
    root_half = 0x3FE6A09E00000000
    shifted = u.view(torch.int64) - root_half
    e = (shifted >> 52).double()
    f = ((shifted & 0xFFFFFFFFFFFFF) + root_half).view(torch.float64) - 1.0
    s = f / (2.0 + f)
    z, half_square = s * s, 0.5 * f * f
    p = z * _polynomial(
        z,
        1.479819860511658591e-1,
        1.531383769920937332e-1,
        1.818357216161805012e-1,
        2.222219843214978396e-1,
        2.857142874366239149e-1,
        3.999999999940941908e-1,
        6.666666666666735130e-1,
    )
    return s * (half_square + p) + e * 1.90821492927058770002e-10 - half_square + f + e * 6.93147180369123816490e-1


def _polynomial(x: Tensor, first: float, *rest: float) -> Tensor:
    result = torch.full_like(x, first)
    for coefficient in rest:
        result = result * x
        result = result + coefficient
    return result
