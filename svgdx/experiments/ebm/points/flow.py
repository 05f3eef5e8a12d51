"""The exact density of an SVGD sampler: that of a particle in the field of a chain that does not feel it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from svgdx import ops
from svgdx.samplers import SVGD, LearntGaussian, State
from svgdx.streams import Stream

# Newton's method doubles its digits in each iteration; a point is reached if its image is this near, in units of x.
_ITERATIONS = 12
_TOLERANCE = 1e-3


class FieldStep(NamedTuple):
    """A step of K chains of M particles: x and score (K, M, D), sigma (K) and eps (K)."""

    x: Tensor
    score: Tensor
    sigma: Tensor
    eps: Tensor


class Path(NamedTuple):
    """Points (K, N, D) on their way through a flow.

    log_det: log |det| of the way's Jacobian from start to end, (K, N). folded: whether a factor of it was not positive.
    reached: whether a point on the way back has a preimage that was found.
    """

    x: Tensor
    log_det: Tensor
    folded: Tensor
    reached: Tensor


class SamplerFlow:
    """The map that K chains of M - 1 particles make of the start of one further particle, which they do not feel.

    Given the chains the particle's way is a deterministic map x -> x + eps phi(x), whose Jacobian I + eps J is computed
    in full. The density that follows is exact wherever the map is one to one, and the samples are those of a chain of
    M particles up to terms of 1 / M. If several points have one image, that density is a lower bound.

    Args:
        sampler: from a LearntGaussian, and without Metropolis-Hastings, whose steps are no map.
        particles: M.
        steps: L.
        chains: K.
        stream: source of the chains.

    Source: Messaoud et al., S2AC, ICLR 2024, theorem 3.2, of which this is the statement before its first-order terms.
    """

    def __init__(self, sampler: SVGD, particles: int, steps: int, chains: int, stream: Stream) -> None:
        assert isinstance(sampler.initial, LearntGaussian)
        self.target, self.initial, self.particles = sampler.target, sampler.initial, particles
        self.steps: list[FieldStep] = []
        seed = stream.seed()
        # Without steps, the same stream gives the particles at the start.
        before = sampler.sample(particles - 1, 0, batch=chains, generator=Stream.of_seed(seed, stream.device))

        def record(state: State) -> None:
            nonlocal before
            assert state.record is not None
            active = 1.0 if state.active is None else state.active.to(before.dtype)
            eps, sigma = (value.detach().expand(chains) for value in (state.record.eps, state.record.sigma))
            # A chain that has stopped has no sigma.
            self.steps.append(FieldStep(before, state.score, sigma.nan_to_num(1.0), eps.nan_to_num(0.0) * active))
            before = state.x

        sampler.callbacks.append(record)
        try:
            with torch.no_grad():
                sampler.run(
                    particles - 1, steps, batch=chains, generator=Stream.of_seed(seed, stream.device), log_prob=False
                )
        finally:
            sampler.callbacks.remove(record)

    def sample(self, count: int, stream: Stream) -> tuple[Tensor, Tensor, Tensor]:
        """Draws count points for each chain, (K, N, D), with their log density (K, N) and whether the map folded."""
        chains = len(self.steps[0].x) if self.steps else 1
        with torch.no_grad():
            x, log_q = self.initial.draw(count, (chains,), stream)
        path = Path(x, torch.zeros_like(log_q), torch.zeros_like(log_q).bool(), torch.ones_like(log_q).bool())
        for step in self.steps:
            image, jacobian = self._map(step, path.x)
            path = self._passed(path, image, jacobian)
        return path.x, log_q - path.log_det, path.folded

    def log_prob(self, points: Tensor) -> tuple[Tensor, Path]:
        """The log density at points (N, D) averaged over the chains, -inf if none reaches one, and the way back."""
        chains = len(self.steps[0].x)
        x = points.expand(chains, *points.shape)
        path = Path(x, x.new_zeros(x.shape[:-1]), x.new_zeros(x.shape[:-1]).bool(), x.new_ones(x.shape[:-1]).bool())
        for step in reversed(self.steps):
            path = self._back(step, path)
        log_q = self._log_start(path.x) - path.log_det
        log_q = log_q.where(path.reached, -torch.inf)
        return torch.logsumexp(log_q, 0) - torch.tensor(float(chains)).log(), path

    def _log_start(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            start = torch.distributions.Normal(self.initial.mean, self.initial.log_std.exp())
            return start.log_prob(x).sum(-1)

    def _back(self, step: FieldStep, path: Path) -> Path:
        """Solves x + eps phi(x) = y by Newton's method."""
        y, x = path.x, path.x
        best = x.new_full(x.shape[:-1], torch.inf)
        solution, matrix = x, torch.eye(x.shape[-1]).expand(*x.shape, -1)
        for _ in range(_ITERATIONS):
            image, jacobian = self._map(step, x)
            gap = image - y
            error = torch.linalg.vector_norm(gap, dim=-1)
            closer = error < best
            best = torch.where(closer, error, best)
            solution = torch.where(closer[..., None], x, solution)
            matrix = torch.where(closer[..., None, None], jacobian, matrix)
            if bool((best < 0.1 * _TOLERANCE).all()):
                break
            move = torch.linalg.lstsq(jacobian, gap[..., None]).solution[..., 0]
            # A long move leaves the region in which the Jacobian says anything.
            length = torch.linalg.vector_norm(move, dim=-1, keepdim=True)
            x = x - move * (step.sigma[:, None, None] / length.clamp(min=1e-12)).clamp(max=1.0)
        moved = self._passed(path, solution, matrix)
        return moved._replace(reached=path.reached & (best < _TOLERANCE))

    def _passed(self, path: Path, x: Tensor, jacobian: Tensor) -> Path:
        sign, log_det = torch.linalg.slogdet(jacobian)
        return Path(x, path.log_det + log_det, path.folded | (sign <= 0), path.reached)

    def _map(self, step: FieldStep, x: Tensor) -> tuple[Tensor, Tensor]:
        """The images x + eps phi(x) of points (K, N, D), and the Jacobians (K, N, D, D); both detached."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            score = self.target.derivatives(x, "none", graph=True).score
            field, _ = ops.svgd_field(x, step.x, step.score, step.sigma)
            phi = ((self.particles - 1) * field + score) / self.particles
            image = x + step.eps[:, None, None] * phi
            rows = [
                torch.autograd.grad(image[..., d].sum(), x, retain_graph=d + 1 < x.shape[-1])[0]
                for d in range(x.shape[-1])
            ]
        return image.detach(), torch.stack(rows, -2)
