"""Private to svgdx.gflownets.recorded: the activations of an MLPPolicy at every state of a rollout."""

from __future__ import annotations

from torch import Tensor

from svgdx.gflownets.recorded._buffers import buffers_of
from svgdx.gflownets.recorded._weights import Weights

# Logits of all states are recorded up to this size; larger ones are recomputed in chunks.
LOGITS_BYTES = 64 * 2**20
# States whose layers are worked on at once: their gradients stay in the cache.
CHUNK_ROWS = 1024
# The same if the last layer is recomputed: an even number of trajectories at D = 784, for two threads.
LINEAR_ROWS = 5120


class Record:
    """Activations (L, T+1, B, H) of all layers in the order of the visit, which for backward rows is from s_T to s_0.

    In addition the normalizers (B, T+1, 2), and the logits (B, T+1, 3D) if they are small, both in forward order. The
    first `split` rows are forward ones.
    """

    def __init__(self, weights: Weights, batch: int, split: int, steps: int) -> None:
        policy = weights.policy
        self.weights = weights
        self.batch, self.split, self.steps = batch, split, steps
        device, dtype = weights.first.device, weights.dtype
        self.buffers = buffers_of(policy).lend(self, device)
        self.generation = self.buffers.generation
        shape = (1 + len(weights.deeper), steps + 1, batch, weights.first.shape[0])
        self.hidden = self.buffers.take("hidden", shape, dtype, device)
        self.logits: Tensor | None = None
        if batch * (steps + 1) * 3 * policy.dim * dtype.itemsize <= LOGITS_BYTES:
            self.logits = self.buffers.take("logits", (batch, steps + 1, 3 * policy.dim), dtype, device)
        self.normalizers: Tensor | None = None

    def usable(self) -> bool:
        """Whether the activations are still there and are those of the policy's present parameters."""
        return self.buffers.generation == self.generation and self.weights.current()

    def forward_order(self, layer: Tensor, rows: slice) -> Tensor:
        """Rows of one kind, from (T+1, B, .) by visit to (n, T+1, .) by time; for backward rows this reverses time."""
        selected = layer[:, rows].transpose(0, 1)
        return (selected if rows.stop <= self.split else selected.flip(1)).contiguous()


def states_at_once(batch: int, width: int, itemsize: int) -> int:
    """The successive states, at least 2, whose logits (B, n, width) are kept at once."""
    return max(2, LOGITS_BYTES // max(1, batch * width * itemsize))
