"""The samplers of the negatives, against which an energy is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from svgdx.experiments.ebm.config import EBMConfig
from svgdx.experiments.run.compute.adam import descend
from svgdx.experiments.run.compute.guard import Quantities
from svgdx.experiments.run.parallel import check_finite
from svgdx.ops import median_distance
from svgdx.samplers import (
    RBF,
    SVGD,
    Chain,
    EpsilonGreedy,
    LangevinRun,
    Learnt,
    LearntGaussian,
    MetropolisHastings,
    ReplayBuffer,
    SteinStop,
    TemperedTarget,
    langevin,
    median_bandwidth,
    step_bound,
)
from svgdx.samplers.control import Control
from svgdx.streams import Stream


class Negatives(Protocol):
    """A sampler of the energy's distribution.

    Attributes:
        modules: what it learns, and the chains that it keeps between updates, by the name in a checkpoint.
        optimisers: those of its parameters, by the name in a checkpoint.
    """

    modules: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]

    def kind(self, step: int) -> Hashable | None:
        """What a draw at this step does, see `svgdx.experiments.run.compute.graph.Graphs.run`."""

    def draw(self, energy: nn.Module, step: int, stream: Stream, recorded: bool = True) -> tuple[Tensor, Quantities]:
        """Draws the samples of an update, (batch * particles, D), detached, and returns quantities with them.

        recorded: whether someone will read the quantities; otherwise those that cost launches may be left out.
        """

    def sample(self, energy: nn.Module, count: int, stream: Stream) -> tuple[Tensor, Tensor | None]:
        """Draws samples (count, D) for an evaluation as in training, but changes no state.

        Also returns the log density (count,) in nats that the sampler claims for them, or None.
        """


class LangevinNegatives:
    """Short runs of Langevin dynamics that start from N(0, I) or from a buffer of chains."""

    def __init__(self, config: EBMConfig, train: Tensor, stream: Stream) -> None:
        self.config, self.dim = config, train.shape[1]
        self.buffer = ReplayBuffer(config.buffer, self.dim, stream) if config.chains == "persistent" else None
        self.modules: dict[str, nn.Module] = {} if self.buffer is None else {"buffer": self.buffer}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}

    def kind(self, step: int) -> Hashable | None:
        return "langevin"

    def draw(self, energy: nn.Module, step: int, stream: Stream, recorded: bool = True) -> tuple[Tensor, Quantities]:
        config, count = self.config, self.config.batch * self.config.particles
        if self.buffer is None:
            start = stream.normal((count, self.dim))
        else:
            rows, start = self.buffer.draw(count, config.restart, stream)
        run = self._run(energy, start, stream)
        quantities: Quantities = {"score_norm": run.score_norm, "steps": float(config.svgd_steps)}
        check_finite(step, quantities | {"samples": run.x.square().mean()})
        if self.buffer is not None:
            self.buffer.keep(rows, run.x)
        return run.x, quantities

    def sample(self, energy: nn.Module, count: int, stream: Stream) -> tuple[Tensor, Tensor | None]:
        buffer = self.buffer
        start = stream.normal((count, self.dim)) if buffer is None else buffer.draw(count, 0.0, stream)[1]
        return self._run(energy, start, stream).x, None

    def _run(self, energy: nn.Module, start: Tensor, stream: Stream) -> LangevinRun:
        config = self.config
        return langevin(energy, start, config.svgd_steps, config.langevin_step, math.sqrt(config.temperature), stream)


class SVGDNegatives:
    """SVGD chains whose initial Gaussian, bandwidths and step sizes are trained by the reverse KL divergence.

    Every `sampler_every`-th draw also updates the sampler, through randomly chosen steps.
    """

    def __init__(self, config: EBMConfig, energy: nn.Module, train: Tensor, device: torch.device) -> None:
        self.config = config
        self.sampler = sampler_of(config, energy, train).to(device)
        learnt = [parameter for parameter in self.sampler.parameters() if parameter.requires_grad]
        # With a fixed start, bandwidth and step size nothing is learnt.
        self.adam = torch.optim.Adam(learnt, config.sampler_lr, betas=(0.5, 0.9), fused=True) if learnt else None
        self.modules: dict[str, nn.Module] = {"sampler": self.sampler}
        self.optimisers: dict[str, torch.optim.Optimizer] = {} if self.adam is None else {"sampler_adam": self.adam}

    def kind(self, step: int) -> Hashable | None:
        """Whether the sampler learns; None if it does so through other steps every time."""
        learns = self._learns(step)
        return None if learns and self.config.attached_steps < self.config.svgd_steps else learns

    def _learns(self, step: int) -> bool:
        return self.adam is not None and self.config.attached_steps > 0 and step % self.config.sampler_every == 0

    def _attached(self, stream: Stream) -> frozenset[int]:
        """The steps that an update of the sampler goes through, drawn on the host, which builds the graph."""
        count, steps = self.config.attached_steps, self.config.svgd_steps
        if count == steps:
            return frozenset(range(steps))
        return frozenset(Stream.of_seed(stream.seed()).permutation(steps)[:count].tolist())

    def draw(self, energy: nn.Module, step: int, stream: Stream, recorded: bool = True) -> tuple[Tensor, Quantities]:
        config = self.config
        learns = self._learns(step)
        attached = self._attached(stream) if learns else frozenset()
        self.sampler.progress = step / config.steps
        # Without a bound, the one that is logged draws a probe; the draws after it must be the same in any case.
        recorded = recorded or (config.bound == "none" and config.hessian != "none")
        batch = (config.batch,)
        with torch.set_grad_enabled(learns):
            chain = self.sampler.run(
                config.particles,
                config.svgd_steps,
                batch=batch,
                generator=stream,
                attached=attached,
                recorded=recorded,
            )
        assert chain.log_q is not None
        quantities: Quantities = {}
        if recorded:
            quantities |= chain_quantities(chain, self.sampler, stream)
            check_finite(step, quantities)
            # A reference for the bandwidth, learnt or not.
            median = median_distance(chain.x.detach()[0])
            quantities["sigma_median"] = median / math.sqrt(2 * math.log(config.particles))
        loss = torch.sub(chain.log_q, energy(chain.x), alpha=1 / config.temperature).mean()
        quantities["sampler_loss"] = loss.detach()
        check_finite(step, quantities)
        if learns and self.adam is not None:
            quantities |= descend(step, self.adam, loss, "sampler", config.clip)
        return chain.x.detach().flatten(0, 1), quantities

    @torch.no_grad()
    def sample(self, energy: nn.Module, count: int, stream: Stream) -> tuple[Tensor, Tensor | None]:
        config, chains = self.config, math.ceil(count / self.config.particles)
        x, log_q = self.sampler.sample_with_log_prob(
            config.particles, config.svgd_steps, batch=(chains,), generator=stream
        )
        return x.flatten(0, 1)[:count], log_q.flatten()[:count]


def sampler_of(config: EBMConfig, energy: nn.Module, train: Tensor) -> SVGD:
    """The SVGD sampler that the settings describe; its lengths are relative to the training images (N, D)."""
    mean, std = torch.zeros(train.shape[1]), torch.ones(train.shape[1])
    if config.start.endswith("data"):
        mean, std = train.mean(0), (train.var(0) + config.noise**2 + 1e-4).sqrt()
    sigma = config.bandwidth_start * median_bandwidth(train[:1000], config.particles)
    eps = config.step_size * config.particles
    control: str | Control = config.control
    if config.control == "metropolis-hastings":
        control = MetropolisHastings(iterations=config.mh_iterations)
    if config.control == "epsilon-greedy":
        control = EpsilonGreedy(iterations=config.mh_iterations)
    start: LearntGaussian | MultivariateNormal
    if config.start == "covariance":
        # The noise that is left at the end also keeps directions in which images do not vary.
        floor = config.noise_end**2 * torch.eye(train.shape[1], device=train.device)
        start = MultivariateNormal(train.mean(0), torch.cov(train.T) + floor)
    else:
        start = LearntGaussian(mean, std).requires_grad_(config.start.startswith("learnt"))
    stop = None
    if config.adaptive:
        least = math.ceil(config.stop_least * config.svgd_steps)
        signed = config.stop == "signed"
        stop = SteinStop(config.stop_threshold, config.patience or None, signed=signed, least=least)
    return SVGD(
        energy if config.temperature == 1 else TemperedTarget(energy, config.temperature),
        start,
        RBF(Learnt(sigma, config.svgd_steps) if config.bandwidth == "learnt" else config.bandwidth),
        Learnt(eps, config.svgd_steps) if config.step == "learnt" else eps,
        bound=config.bound,
        hessian=config.hessian,
        density=config.density,
        divisor=config.divisor,
        control=control,
        stop=stop,
    )


def chain_quantities(chain: Chain, sampler: SVGD, stream: Stream) -> Quantities:
    """The quantities of a chain that are logged: entropy in nats, number of steps, and those of the steps.

    Quantities of the steps are means over the steps; eps_bound is the smallest, or that at the last particles if the
    sampler has no bound. A chain that stopped at once has none of them.
    """
    quantities: Quantities = {"entropy": chain.entropy().detach().mean(), "steps": chain.length.double().mean()}
    if not chain.steps:
        return quantities
    history = chain.history()
    names = ("score_norm", "sigma", "eps", "trace", "rate", "discrepancy")
    quantities |= {name: over_steps(chain, history[name], torch.mean, torch.nanmean) for name in names}
    if sampler.bound != "none":
        quantities["eps_bound"] = over_steps(chain, history["eps_bound"], torch.amin, _nanmin)
    else:
        quantities["eps_bound"] = last_bound(chain, sampler, stream)
    limit = history["eps_bound"] if sampler.bound != "none" else quantities["eps_bound"]
    # "clamp" holds eps at the bound itself.
    past = (history["eps"] >= limit).to(chain.x.dtype)
    quantities["past_bound"] = over_steps(
        chain, past.where(~history["eps"].isnan(), torch.nan), torch.mean, torch.nanmean
    )
    if chain.corrections > 0:
        # With epsilon-greedy control, steps that were not corrected have no acceptance.
        quantities["mh_rejection"] = 1 - history["acceptance"].nanmean()
    return quantities


Reduction = Callable[[Tensor], Tensor]


def over_steps(chain: Chain, values: Tensor, reduce: Reduction, reduce_present: Reduction) -> Tensor:
    """A mean or an extremum over the steps of a chain, (); the second reduction leaves out NaN.

    A chain on a GPU has NaN in steps in which nothing moved; one that stopped at once gives 0.
    """
    if not chain.running:
        return reduce(values)
    return torch.where(torch.stack(chain.running).any(), reduce_present(values), 0)


def _nanmin(values: Tensor) -> Tensor:
    return torch.where(values.isnan(), torch.inf, values).min()


def last_bound(chain: Chain, sampler: SVGD, stream: Stream) -> Tensor:
    """eps_UB at the last particles, (), without the Hessian's term if the sampler omits it."""
    x = chain.x.detach()
    derivatives = sampler.target.derivatives(x, sampler.hessian, generator=stream)
    sqnorm = sampler.kernel.sqnorm(x, derivatives.score, chain.steps[-1].sigma, derivatives.probe, derivatives.hvp)
    return step_bound(sqnorm).min()
