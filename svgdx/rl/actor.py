"""The Stein actor: SVGD particles at a state, the actions they stand for and the density of these actions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from svgdx.activations import ACTIVATIONS
from svgdx.densities.linear import Linear
from svgdx.rl.presets import SteinSettings
from svgdx.rl.targets import log_two_cosh
from svgdx.samplers import RBF, SVGD, Chain, EpsilonGreedy, Fixed, Heuristic, Learnt, MetropolisHastings, SteinStop
from svgdx.samplers.control import Control
from svgdx.samplers.initial import DiagonalGaussian, Initial
from svgdx.samplers.parameters import Value
from svgdx.samplers.targets import Target
from svgdx.streams import Source, Stream

STD = (0.1, 1.0)
# Bounds of learnt values: a factor of 100 and more around actions, which are of order 1 before their tanh.
BANDWIDTH = (0.01, 10.0)
STEP_SIZE = (1e-4, 10.0)


class SteinSample(NamedTuple):
    """M particles at each of B states."""

    action: Tensor
    """tanh u, in [-1, 1], (B, M, D)."""
    log_prob: Tensor | None
    """Log density of the environment's action, limit times tanh u, in nats, (B, M); None if it was not computed."""
    chain: Chain
    """The SVGD chain that ended at u."""
    moved: Tensor | None = None
    """Root mean square of the particles' displacement in deviations of their start, (); None if it was not recorded."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value (B, M) over the particles that truncation left, or over all if it left none: (B,)."""
        weight = self.weights()
        return value.mean(-1) if weight is None else (weight * value).sum(-1) / weight.sum(-1)

    def quantities(self) -> dict[str, Tensor]:
        """What is logged of a sample with its density, each (): entropy in nats, steps, `moved`, share truncated."""
        assert self.log_prob is not None
        quantities = {
            "entropy": -self.mean(self.log_prob.detach()).mean(),
            "svgd_steps": self.chain.length.float().mean(),
        }
        if self.moved is not None:
            quantities["moved"] = self.moved
        if self.chain.mask is not None:
            quantities["truncated"] = 1 - self.chain.mask.float().mean()
        return quantities

    def weights(self) -> Tensor | None:
        """1 for each particle that `mean` counts, 0 for the others, (B, M); None if it counts all."""
        mask = self.chain.mask
        if mask is None:
            return None
        return (mask | ~mask.any(-1, keepdim=True)).to(self.action.dtype)


class SteinActor(nn.Module):
    """pi(a | s): particles from a Gaussian that a network sets by the state, moved by SVGD towards a target.

    The action is limit * tanh(particle).

    Args:
        state_dim: S.
        limit: half of the range of each action, (D,), in the environment's units.
        settings: how SVGD runs.
        hidden: widths of the network's hidden layers.
        activation: one of `svgdx.activations.ACTIVATIONS`.
        features_extractor: of Stable-Baselines3, which turns observations into states; the owner calls it.

    Sources: Messaoud et al., S2AC, ICLR 2024, and Particles Don't Care About Z, ICML 2026.
    """

    limit: Tensor
    log_scale: Tensor
    progress: Tensor

    def __init__(
        self,
        state_dim: int,
        limit: Tensor,
        settings: SteinSettings,
        hidden: tuple[int, ...],
        activation: str,
        features_extractor: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.features_extractor = features_extractor
        self.settings = settings
        # Raise ValueError for settings that do not fit.
        self._control()
        self._stop()
        self.register_buffer("limit", limit)
        self.register_buffer("log_scale", (limit.log() + 2 * math.log(2)).sum(), persistent=False)
        # The fraction of the training that is done, from which "epsilon-greedy" takes its probability.
        self.register_buffer("progress", torch.zeros(()))
        widths = [state_dim, *hidden]
        self.layers = nn.ModuleList(Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(widths))
        self.head = Linear(widths[-1], 2 * limit.numel())
        self.activation = ACTIVATIONS[activation].function
        self.kernel = RBF(self._bandwidth())
        start = settings.step_size
        assert start is not None
        self.step_size: Value | None = None
        if settings.step == "learnt" and settings.steps > 0:
            self.step_size = Learnt(start, settings.steps, *STEP_SIZE)
        # No part of the state; it follows the particles to their device once, rather than for each sample.
        self._fixed_step_size = (Fixed(start),)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SteinActor:
        super()._apply(fn, recurse)
        # The host decides by it, and would have to wait for a GPU.
        self.progress = self.progress.cpu()
        return self

    def _bandwidth(self) -> Value:
        settings = self.settings
        if settings.bandwidth != "learnt":
            return Heuristic(settings.bandwidth)
        return Learnt(settings.bandwidth_start, max(1, settings.steps), *BANDWIDTH)

    def initial(self, state: Tensor) -> DiagonalGaussian:
        """The distribution from which the particles of states (B, S) start, with mean and std (B, D)."""
        z = state
        for layer in self.layers:
            z = self.activation(layer(z))
        mean, log_std = self.head(z).chunk(2, -1)
        low, high = map(math.log, STD)
        if self.settings.start == "clamp":
            log_std = log_std.clamp(low, high)
        else:
            # Two launches on a GPU: a number on the host is no tensor there.
            log_std = torch.add(torch.tensor(low), log_std.sigmoid(), alpha=high - low)
        return DiagonalGaussian(mean, log_std.exp(), log_std)

    def sample(
        self,
        initial: Initial,
        target: Target,
        log_prob: bool = True,
        recorded: bool = False,
        generator: Source = None,
    ) -> SteinSample:
        """Runs SVGD from an initial distribution over B states to a target at the same states.

        Args:
            initial, target: over u, the actions before their tanh.
            log_prob: whether to compute the density of the actions.
            recorded: whether the chain records its steps.
            generator: source of all random numbers; None uses torch's default generator.

        Raises:
            FloatingPointError: the target's score is NaN or infinite.
        """
        settings = self.settings
        sampler = self._sampler(initial, target, self._control())
        sampler.progress = float(self.progress)
        chain = sampler.run(
            settings.particles, settings.steps, log_prob=log_prob, recorded=recorded, generator=generator
        )
        u, moved = chain.x, None
        if recorded and isinstance(initial, DiagonalGaussian) and chain.start is not None:
            moved = ((u.detach() - chain.start) / initial.std.detach().unsqueeze(-2)).square().mean().sqrt()
        if chain.log_q is None:
            return SteinSample(u.tanh(), None, chain, moved)
        # The volume of limit tanh u is that of sum_d [log limit + 2 log 2 - 2 log(2 cosh u)].
        log_prob_u = chain.log_q - self.log_scale
        return SteinSample(u.tanh(), torch.add(log_prob_u, log_two_cosh(u).sum(-1), alpha=2), chain, moved)

    def candidates(self, initial: DiagonalGaussian, target: Target, noise: Tensor) -> SteinSample:
        """As `sample`, without the density, from the same noise (M, D) at every state and without random corrections.

        Metropolis-Hastings, which draws its decisions, is left out.
        """
        settings = self.settings
        control = settings.control if settings.control == "truncation" else "none"
        sampler = self._sampler(_WithNoise(initial, noise), target, control)
        stream = Stream(0, device=noise.device)
        chain = sampler.run(len(noise), settings.steps, log_prob=False, recorded=False, generator=stream)
        return SteinSample(chain.x.tanh(), None, chain)

    def _sampler(self, initial: Initial, target: Target, control: str | Control) -> SVGD:
        settings = self.settings
        return SVGD(
            target,
            initial,  # type: ignore[arg-type]
            self.kernel,
            self._fixed_step_size[0] if self.step_size is None else self.step_size,
            bound=settings.bound,
            hessian=settings.hessian,
            density=settings.density,
            divisor=settings.divisor,
            control=control,
            stop=self._stop(),
        )

    def _control(self) -> str | Control:
        settings = self.settings
        if settings.control == "metropolis-hastings":
            return MetropolisHastings(iterations=settings.mh_iterations)
        if settings.control == "epsilon-greedy":
            return EpsilonGreedy(settings.mh_low, settings.mh_high, iterations=settings.mh_iterations)
        return settings.control

    def _stop(self) -> SteinStop | None:
        settings = self.settings
        if settings.stop_threshold == 0 and settings.patience == 0:
            return None
        return SteinStop(settings.stop_threshold, settings.patience or None)


class _WithNoise(DiagonalGaussian):
    """A Gaussian for each state whose particles come from the same noise (M, D) at all of them, whatever n is."""

    def __init__(self, gaussian: DiagonalGaussian, noise: Tensor) -> None:
        super().__init__(gaussian.mean, gaussian.std, gaussian.log_std)
        self.noise = noise

    def _noise(self, n: int, batch: tuple[int, ...], generator: Source) -> Tensor:
        return self.noise.expand(*batch, *self.mean.shape[:-1], -1, -1)


__all__ = ["SteinActor", "SteinSample"]
