"""Counter-based random numbers, the same on every device, and where their seeds come from.

A :class:`Stream` is made from a seed, or by :func:`stream_of` from what a caller passed: a Stream, a torch.Generator or
None.
"""

from svgdx.streams.draws import Source, Stream, stream_of
from svgdx.streams.forks import seeded
from svgdx.streams.seeds import stream_seed

__all__ = ["Source", "Stream", "seeded", "stream_of", "stream_seed"]
