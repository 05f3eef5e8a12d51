"""Seeds of streams: mixed from a few integers, or taken from a torch.Generator."""

from __future__ import annotations

import numpy as np
import torch

from svgdx._checks import integer


def stream_seed(seed: int, step: int = 0, purpose: int = 0, rank: int = 0) -> int:
    """64 bits that depend on these integers alone, so that a resumed run needs no generator's state."""
    seed, step, purpose, rank = (
        integer("Stream", name, value)
        for name, value in (("seed", seed), ("step", step), ("purpose", purpose), ("rank", rank))
    )
    if min(step, purpose, rank) < 0:
        raise ValueError(f"Stream: step, purpose and rank must not be negative, but are {step}, {purpose} and {rank}")
    return mixed([seed % 2**64, step, purpose, *([rank] if rank else [])])


def mixed(entropy: list[int]) -> int:
    """64 bits from integers that are not negative."""
    words = np.random.SeedSequence(entropy).generate_state(2, np.uint32)
    return int(words[0]) << 32 | int(words[1])


def seed_of(generator: torch.Generator | None) -> int:
    """Takes a seed from a generator, which advances; never waits for its device. None: torch's default of the CPU."""
    if generator is None or generator.device.type == "cpu":
        return int(torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, generator=generator, device="cpu"))
    # The state of a GPU's generator, a seed and an offset, is in the memory of the host.
    offset = int(generator.get_offset())
    generator.set_offset(offset + 4)
    return mixed([generator.initial_seed() % 2**64, offset])
