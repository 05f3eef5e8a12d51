"""The one guarded step of Adam: nothing that is not finite reaches a parameter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from svgdx.experiments.run import parallel


def descend(step: int, adam: torch.optim.Optimizer, loss: Tensor, name: str, clip: float = 0.0) -> dict[str, Tensor]:
    """Makes one step of an optimiser on the gradient of a loss, averaged over the ranks.

    The host does not wait for a GPU: there the optimiser itself skips the step if the gradient is not finite, and
    `svgdx.experiments.run.compute.guard.Guard` notices it by the returned norm.

    Args:
        step: the step that an error names.
        adam: the optimiser of the parameters; on a GPU it must be fused.
        loss: scalar, with its graph.
        name: what is trained, for the name of the returned quantity.
        clip: the gradient is scaled down to this Euclidean norm if its norm is larger; 0 disables clipping.

    Returns:
        NAME_gradient: the norm of the gradient before clipping, ().

    Raises:
        DivergedError: the norm is not finite, on the CPU of any rank; the parameters and the optimiser's state are
            unchanged.
        ValueError: an optimiser on a GPU that is not fused.
    """
    parameters = [parameter for group in adam.param_groups for parameter in group["params"]]
    loss = parallel.averaged(loss, adam)
    adam.zero_grad()
    loss.backward()
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    quantities = {f"{name}_gradient": norm}
    parallel.check_finite(step, quantities)
    if clip > 0:
        nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    if norm.device.type != "cpu":
        if not adam.defaults.get("fused"):
            raise ValueError(f"descend: the optimiser of {name} must be fused on a GPU, but is not")
        # Zero times a number that is not finite is NaN. The fused step neither moves nor counts if this is 1.
        adam.found_inf = (norm * 0 != 0).float()  # type: ignore[attr-defined]
    adam.step()
    return quantities
