"""Private to svgdx.gflownets.recorded: the matrices of an MLPPolicy as its rollouts use them."""

from __future__ import annotations

import torch
from torch import Tensor

from svgdx import _library
from svgdx._checks import compute_dtype
from svgdx.densities.linear import product
from svgdx.gflownets.policies import IN_PLACE, MLPPolicy


class Weights:
    """The policy's matrices in the dtype of its products; the head of a uniform P_B is padded with zeros."""

    def __init__(self, policy: MLPPolicy) -> None:
        first, *deeper, head = policy.linears()
        dtype = policy.matmul_dtype or first.weight.dtype
        self.policy = policy
        self.dtype = dtype
        self.first, self.first_bias = first.weight.detach(), first.bias.detach()
        self.deeper = [(layer.weight.detach().to(dtype), layer.bias.detach().to(dtype)) for layer in deeper]
        weight, bias = head.weight.detach(), head.bias.detach()
        if not policy.learnt_backward:
            weight = torch.cat([weight, weight.new_zeros(policy.dim, weight.shape[1])])
            bias = torch.cat([bias, bias.new_zeros(policy.dim)])
        self.head = weight.to(dtype), bias.to(dtype)
        self.slope = IN_PLACE[policy.activation].slope
        self.versions = _versions(policy)
        self._stacked: tuple[Tensor, Tensor] | None = None

    @property
    def compiled(self) -> bool:
        """Whether the rollout is compiled: for piecewise linear activations."""
        if self.first.device.type not in ("cpu", "cuda") or self.slope is None or _library.disabled():
            return False
        # Not with rounded products: the compiled rollout rounds before the bias and after it, torch's addmm once.
        return self.first.dtype == self.dtype == compute_dtype(self.first)

    def current(self) -> bool:
        """Whether no parameter has been changed in place since."""
        return self.versions == _versions(self.policy)

    def argument(self, states: Tensor) -> Tensor:
        """The argument of the first layer's activation, (B, D) -> (B, H)."""
        return product(states.to(self.first.dtype), self.first.t(), self.first_bias)

    def columns(self) -> Tensor:
        """The first layer's weight by location, (D, H)."""
        return self.first.t().contiguous()

    def stacked(self) -> tuple[Tensor, Tensor]:
        """Weights (L-1, H, H) of the layers between the first and the head, and their biases (L-1, H)."""
        if self._stacked is None:
            width = self.first.shape[0]
            weights = [weight for weight, _ in self.deeper]
            biases = [bias.to(self.first.dtype) for _, bias in self.deeper]
            self._stacked = (
                torch.stack(weights) if weights else self.first.new_empty(0, width, width, dtype=self.dtype),
                torch.stack(biases) if biases else self.first.new_empty(0, width),
            )
        return self._stacked


def _versions(policy: MLPPolicy) -> list[tuple[int, int]]:
    # Parameters made in inference mode have no version, and no gradient for which it would matter.
    return [(id(parameter), 0 if parameter.is_inference() else parameter._version) for parameter in policy.parameters()]
