"""The door to what rollouts of an MLPPolicy record, and to the gradient from that record.

To follow one gradient, read the private modules in this order: `_weights`, the matrices of the policy; `_buffers`, the
memory that successive rollouts share; `_record`, the activations at every state; `_compiled`, the compiled rollout
and its gradient; `_inner_ops`, log-probabilities beneath autograd; `_gradients`, the gradient from a record; and
`_autograd`, which makes it a function of the policy's parameters.
"""

from svgdx.gflownets.recorded._autograd import recorded_log_prob
from svgdx.gflownets.recorded._compiled import advance
from svgdx.gflownets.recorded._inner_ops import trajectory_forward
from svgdx.gflownets.recorded._record import Record, states_at_once
from svgdx.gflownets.recorded._weights import Weights

__all__ = ["Record", "Weights", "advance", "recorded_log_prob", "states_at_once", "trajectory_forward"]
