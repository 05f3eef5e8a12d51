"""Peers of svgd_phi_trace: the same quantities as users write them today.

Every peer maps  x, score (B, M, D) and bandwidth (B,) to phi (B, M, D) and trace (B, M), without the Hessian term.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import svgdx.ops

Form = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def pairwise(x: Tensor, score: Tensor, bandwidth: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of all pairs in a (B, M, M, D) tensor."""
    m, d = x.shape[-2:]
    beta = (bandwidth**-2)[:, None, None]
    r = x[:, :, None] - x[:, None]
    kappa = torch.exp(-0.5 * beta * r.square().sum(-1))
    z = score[:, None] + beta[..., None] * r
    phi = (kappa[..., None] * z).sum(-2) / m
    trace = (kappa * (d - (r * z).sum(-1))).sum(-1) - d
    return phi, beta[..., 0] * trace / m


def matmul(x: Tensor, score: Tensor, bandwidth: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances and sums over particles as matrix products, with kernel values in a (B, M, M) tensor."""
    m, d = x.shape[-2:]
    beta = (bandwidth**-2)[:, None, None]
    norm = x.square().sum(-1, keepdim=True)
    squared = (norm + norm.mT - 2 * x @ x.mT).clamp_min(0)
    kappa = torch.exp(-0.5 * beta * squared)
    total = kappa.sum(-1, keepdim=True)
    sums = kappa @ torch.cat([score, x, (x * score).sum(-1, keepdim=True)], -1)
    k_score, k_x, k_dot = sums[..., :d], sums[..., d : 2 * d], sums[..., 2 * d :]
    phi = (k_score + beta * (x * total - k_x)) / m
    r_z = beta * (kappa * squared).sum(-1, keepdim=True) + (x * k_score).sum(-1, keepdim=True) - k_dot
    return phi, (beta * (d * (total - 1) - r_z) / m).squeeze(-1)


def keops(x: Tensor, score: Tensor, bandwidth: Tensor) -> tuple[Tensor, Tensor]:
    """KeOps LazyTensors (Charlier et al., JMLR 2021): symbolic (B, M, M) arrays reduced in compiled loops."""
    from pykeops.torch import LazyTensor

    m, d = x.shape[-2:]
    beta_t = (bandwidth**-2)[:, None, None, None].contiguous()
    x_i, x_j = LazyTensor(x[:, :, None].contiguous()), LazyTensor(x[:, None].contiguous())
    s_j, beta = LazyTensor(score[:, None].contiguous()), LazyTensor(beta_t)
    r = x_i - x_j
    z = s_j + beta * r
    kappa = (-0.5 * beta * (r * r).sum(-1)).exp()
    sums = (kappa * z.concat(float(d) - (r * z).sum(-1))).sum(2)
    return sums[..., :d] / m, beta_t[:, :, 0, 0] * (sums[..., d] - d) / m


def compiled(form: Form) -> Form:
    torch._dynamo.reset()
    return torch.compile(form, fullgraph=True, dynamic=False)


def fused(x: Tensor, score: Tensor, bandwidth: Tensor) -> tuple[Tensor, Tensor]:
    return svgdx.ops.svgd_phi_trace(x, score, bandwidth)


PAIRWISE_NUMBERS = 400_000_000  # above this, the temporaries of the (B, M, M, D) form need more than 10 GB
COMPILED_PAIRWISE_DIM = 64  # above this, the compiled loop over pairs takes minutes per call
KEOPS_DIM = 64  # KeOps keeps a pair's vectors in registers and takes minutes to compile above this


def fits(peer: str, batch: int, particles: int, dim: int) -> bool:
    """Whether a peer can run a problem of this size on a 24 GB machine in reasonable time."""
    if peer == "pairwise":
        return batch * particles**2 * dim <= PAIRWISE_NUMBERS
    if peer == "compiled pairwise":
        return dim <= COMPILED_PAIRWISE_DIM and batch * particles**2 * dim <= PAIRWISE_NUMBERS
    return peer != "keops" or dim <= KEOPS_DIM


PEERS: dict[str, Callable[[], Form]] = {
    "svgdx": lambda: fused,
    "pairwise": lambda: pairwise,
    "matmul": lambda: matmul,
    "compiled pairwise": lambda: compiled(pairwise),
    "compiled matmul": lambda: compiled(matmul),
    "keops": lambda: keops,
}
