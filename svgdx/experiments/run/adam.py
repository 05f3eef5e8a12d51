"""The one guarded step of Adam: nothing that is not finite reaches a parameter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from svgdx.experiments.run import parallel


def descend(step: int, adam: torch.optim.Optimizer, loss: Tensor, name: str, clip: float = 0.0) -> dict[str, float]:
    """Makes one step of an optimiser on the gradient of a loss, averaged over the ranks.

    Args:
        step: the step that an error names.
        adam: the optimiser of the parameters.
        loss: scalar, with its graph.
        name: what is trained, for the name of the returned quantity.
        clip: the gradient is scaled down to this Euclidean norm if its norm is larger; 0 disables clipping.

    Returns:
        NAME_gradient: the norm of the gradient before clipping.

    Raises:
        DivergedError: the norm is not finite, on any rank; the parameters and the optimiser's state are unchanged.
    """
    parameters = [parameter for group in adam.param_groups for parameter in group["params"]]
    loss = parallel.averaged(loss, adam)
    adam.zero_grad()
    loss.backward()
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    quantities = {f"{name}_gradient": norm.item()}
    parallel.check_finite(step, quantities)
    if clip > 0:
        nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    adam.step()
    return quantities
