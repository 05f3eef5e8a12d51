"""Which ops have a CUDA body, read off the C++ sources, and how many kernels a call of one of our ops launches."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svgdx import _library

CSRC = Path(__file__).parents[2] / "csrc"
# A block that registers ops, with a dispatch key; without one it is compiled once for the CPU and once for CUDA.
REGISTRATION = re.compile(r"^SVGDX_(INNER_)?OPS(?:_BY\((\w+), m\)|\(m\)) \{(.*?)(?:^| )\}$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r'm\.(?:op|impl)\(\s*"([\w.]+)')
CUDA_KEYS = ("CUDA", "CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional")
# Widest particles that one thread holds in registers; wider ones take the paths of several kernels.
MOST_REGISTERS = 16


@functools.cache
def sourced() -> dict[str, bool]:
    """Whether each op that the sources register, such as "svgdx::svgd_phi", has a CUDA body."""
    has_cuda: dict[str, bool] = {}
    for path in sorted(CSRC.glob("*/**/*.cpp")):
        for inner, key, body in REGISTRATION.findall(path.read_text()):
            namespace = "svgdx_inner" if inner else "svgdx"
            # Files below cuda/ are compiled for CUDA only, those below cpu/ for the CPU only.
            of_cuda = key in CUDA_KEYS or (key == "" and path.parent.name != "cpu")
            for name in NAME.findall(body):
                has_cuda[f"{namespace}::{name}"] = has_cuda.get(f"{namespace}::{name}", False) or of_cuda
    return has_cuda


def dispatched(name: str) -> bool:
    """Whether torch's dispatcher has a CUDA kernel of an op; needs a CUDA build of torch."""
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in CUDA_KEYS)


@functools.cache
def has_cuda_kernel(func: torch._ops.OpOverload) -> bool:
    """Whether an op runs on CUDA tensors, so far as this build of torch and the C++ sources can tell."""
    schema = func._schema
    name = f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name
    if func.namespace.startswith("svgdx"):
        if _library.libraries["cuda"].path.exists() and torch.version.cuda is not None:
            return dispatched(name)
        return sourced().get(name, False)
    return torch.version.cuda is None or dispatched(name)


def launches(func: torch._ops.OpOverload, args: Sequence[Any]) -> int:
    """The kernels that a call launches: those of csrc for our ops, without splits, and one for an op of torch."""
    if not func.namespace.startswith("svgdx"):
        return 1
    count = LAUNCHES.get(func._schema.name.partition("::")[2], 1)
    return count if isinstance(count, int) else count(args)


def _is_wide(args: Sequence[Any]) -> bool:
    return (
        max((arg.shape[-1] for arg in args if isinstance(arg, Tensor) and arg.dim() >= 2), default=0) > MOST_REGISTERS
    )


def _field(args: Sequence[Any]) -> int:
    # In float32 and what is computed in it: one fused kernel up to 128 dimensions, then three on tensor cores.
    x = next(arg for arg in args if isinstance(arg, Tensor))
    if x.dtype == torch.float64:
        return 4 if _is_wide(args) else 1
    return 3 if x.shape[-1] > 128 else 1


def _by_width(narrow: int, wide: int) -> Callable[[Sequence[Any]], int]:
    return lambda args: wide if _is_wide(args) else narrow


def _field_backward(numbers: int) -> Callable[[Sequence[Any]], int]:
    """One kernel or four, and the sums over rows and over the batch for each number whose gradient is needed."""
    return lambda args: _by_width(1, 4)(args) + 2 * (numbers - sum(arg is False for arg in args))


def _score_hvp(args: Sequence[Any]) -> int:
    # Two kernels and a product per hidden layer on the way up, one of each on the way down.
    hidden = len(args[4]) - 2 if isinstance(args[4], Tensor) else 2
    return 2 + (hidden - 1) + hidden + 2 * (hidden - 1) + 2


def _laplacian(args: Sequence[Any]) -> int:
    # A product and a kernel per hidden layer, and the copy of the first weight's transpose.
    widths = args[3]
    return 1 + 2 * ((len(widths) if isinstance(widths, Tensor) else 4) - 2)


def _laplacian_backward(args: Sequence[Any]) -> int:
    hidden, needs_parameters = len(args[6]) - 2, args[8] if len(args) > 8 else True
    absent = sum(grad is None for grad in args[:3])
    # The forward pass again, gathered upstream gradients, a kernel per layer and a product between two, the copy of the
    # first layer's, and the gradient in x.
    always = _laplacian(args[3:]) + absent + 3 + hidden + (hidden - 1) + 1 + 2
    # Ones, two products per layer, and the assembly of the first layer's weight and bias and of the rest.
    return always + (1 + 2 * hidden + 1 + 3 + 3 + 1 if needs_parameters else 0)


def _minimum(args: Sequence[Any]) -> int:
    layers = len(args[3]) - 2
    return 4 * layers if args[5] > 0 else 2 * layers + 1


def _along(args: Sequence[Any]) -> int:
    return 4 * (len(args[5]) - 2)


def _tanh_target(args: Sequence[Any]) -> int:
    return 1 + 4 * (len(args[5]) - 2)


def _tanh_target_backward(args: Sequence[Any]) -> int:
    _, of_score, of_trace, *_, widths, _ = args
    return 1 if of_score is None and of_trace is None else 2 + 4 * (len(widths) - 2)


def _rollout(args: Sequence[Any]) -> int:
    steps, deeper, is_recorded = args[3], len(args[5]), args[12] is not None
    return 1 + (steps + is_recorded) * (2 * deeper + 2)


def _rollout_backward(args: Sequence[Any]) -> int:
    layers = len(args[1])
    return 4 * layers + 4


def _sqnorm(args: Sequence[Any]) -> int:
    # One kernel if the matrices of all particles together are small, forms_matrix in csrc/jacobian/cuda/matrix.h.
    *lead, m, dim = args[0].shape
    padded = next((p for p in (32, 64, 128) if dim <= p), None)
    is_small = padded is not None and math.prod(lead) * (m * padded) ** 2 <= 2**26
    return 1 if is_small or not _is_wide(args) else 6


def _sqnorm_backward(args: Sequence[Any]) -> int:
    # Two more products with a probe; and the sums over rows for the bandwidth, which may be one number for all.
    _, x, _, bandwidth, probe = args[:5]
    is_number = not isinstance(bandwidth, Tensor) or bandwidth.dim() == 0
    sums = 0 if args[-1] is False else 1 + (is_number and x.dim() > 2)
    return sums + (2 if not _is_wide(args) else 10 if probe is None else 12)


# Kernels of one call; ops that are not listed launch one.
LAUNCHES: dict[str, int | Callable[[Sequence[Any]], int]] = {
    "median_distance": 7,
    "svgd_phi": _field,
    "svgd_phi_trace": _field,
    "svgd_step": _field,
    "svgd_field": _field,
    "svgd_phi_trace_backward": _field_backward(1),
    "svgd_step_backward": _field_backward(2),
    "svgd_field_backward": _field_backward(1),
    "svgd_jacobian_sqnorm": _sqnorm,
    "svgd_jacobian_sqnorm_backward": _sqnorm_backward,
    "chain_moved": _by_width(2, 5),
    "chain_inverse": _by_width(2, 5),
    "mlp_score_hvp": _score_hvp,
    "mlp_laplacian": _laplacian,
    "mlp_laplacian_backward": _laplacian_backward,
    "mlp_minimum": _minimum,
    "mlp_along": _along,
    "mlp_tanh_target": _tanh_target,
    "mlp_tanh_target_backward": _tanh_target_backward,
    "mlp_rollout": _rollout,
    "mlp_rollout_backward": _rollout_backward,
    "gfn_trajectory_log_prob_forward": 3,
    "gfn_trajectory_log_prob_backward": 2,
}
