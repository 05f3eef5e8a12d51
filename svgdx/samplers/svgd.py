"""SVGD samplers: chains of Stein variational gradient descent that know their own log density."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributions, nn

from svgdx.samplers.chain import Runner
from svgdx.samplers.control import Control, MetropolisHastings, as_control
from svgdx.samplers.initial import LearntGaussian, as_initial
from svgdx.samplers.kernels import RBF, Kernel
from svgdx.samplers.state import Chain, State
from svgdx.samplers.step_sizes import BOUNDS, as_step_size
from svgdx.samplers.stopping import SteinStop
from svgdx.samplers.targets import LogDensity, Target, as_target, check_hessian
from svgdx.samplers.values import Value, one_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

DENSITIES = ("first-order", "logdet")
DIVISORS = ("M", "M-1")
Optimiser = Callable[[list[Tensor]], torch.optim.Optimizer]
Callback = Callable[[State], None]
Adam = functools.partial(torch.optim.Adam, lr=1e-2)


class SVGD(nn.Module):
    """Stein variational gradient descent from an initial distribution to a target, with the density of its particles.

    Each step is x' = x + eps phi(x), log q' = log q - log |det(I + eps J)|. What is learnt, of the initial
    distribution, the bandwidth and the step size, is in `parameters()`; the target's own parameters are not.

    Args:
        target: log density (..., M, D) -> (..., M) in nats up to a constant, as a callable or a module; a
            torch.distributions object over vectors; or a score alone, as `ScoreTarget(function)`.
        initial: a torch distribution over vectors (D,), or a LearntGaussian.
        kernel: RBF or InverseMultiquadric, with its bandwidth.
        step_size: eps: a number, Learnt, Scheduled, or a module of the state. A particle's own score enters phi with
            weight 1 / M only: a gradient step of size a is eps = a M.
        bound: what holds eps under eps_UB = 1 / max_i |J_i|_F: "none", "clamp" or "leaky" (slope LEAKY_SLOPE past it).
        hessian: the Hessian term of Tr J: "none", "hutchinson" (one fresh Rademacher probe a step) or "exact".
        density: "first-order", eps Tr J, or "logdet", exact, for D <= 16 and hessian "exact".
        divisor: of the trace's kernel sum: "M", or "M-1" as in the code of S2AC.
        control: "none", "truncation", "metropolis-hastings", "epsilon-greedy", or an object with other settings.
        stop: a SteinStop; None makes all steps.
        attach_every: steps k, 2k, ... keep their graph; 0: none. In all others phi and eps are constants and
            x -> x + eps phi keeps only its identity path.
        optimizer: from a list of tensors to a torch optimiser, which then descends -phi in place of the fixed step;
            such a chain has no density.
        callbacks: called after each step with its State.
        process_group: a group of torch.distributed, over whose ranks the particles are sharded: every rank makes the
            same calls, gets its own particles and adds to the work of all; what is recorded is of all. Initial
            distribution, kernel and step size must be the same on every rank. Ranks are waited for as long as the
            group's own time-out says. Not with Metropolis-Hastings, a module of the state, or an optimizer that is not
            of each number by itself. None: all particles are here.

    Raises:
        ValueError: an unknown name, with the names there are, or settings that exclude each other.
        TypeError: a target or an initial distribution of another kind.

    Sources: Liu & Wang, NeurIPS 2016; Messaoud et al., S2AC, ICLR 2024, and Particles Don't Care About Z, ICML 2026.
    """

    def __init__(
        self,
        target: Target | distributions.Distribution | nn.Module | LogDensity,
        initial: LearntGaussian | distributions.Distribution,
        kernel: Kernel | None = None,
        step_size: float | Value | nn.Module = 0.1,
        *,
        bound: str = "none",
        hessian: str = "hutchinson",
        density: str = "first-order",
        divisor: str = "M",
        control: str | Control = "none",
        stop: SteinStop | None = None,
        attach_every: int = 1,
        optimizer: Optimiser | None = None,
        callbacks: Sequence[Callback] = (),
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.target = as_target(target)
        self.initial = as_initial(initial)
        # An initial distribution of another kind tells its shape in its draws alone.
        shape = initial.event_shape if isinstance(initial, distributions.Distribution) else None
        shape = initial.mean.shape if isinstance(initial, LearntGaussian) else shape
        if shape is not None and isinstance(target, distributions.Distribution) and shape != target.event_shape:
            raise ValueError(
                f"SVGD: initial must be over {tuple(target.event_shape)} as the target, but is over {tuple(shape)}"
            )
        self.kernel = RBF("median") if kernel is None else kernel
        self.step_size = as_step_size(step_size)
        self.bound = one_of("SVGD", "bound", bound, BOUNDS)
        self.density = one_of("SVGD", "density", density, DENSITIES)
        self.hessian = check_hessian(hessian, density)
        self.divisor = one_of("SVGD", "divisor", divisor, DIVISORS)
        self.control = as_control(control)
        if divisor == "M-1" and density == "logdet":
            raise ValueError('SVGD: divisor "M-1" is of the first-order density')
        if attach_every < 0:
            raise ValueError(f"SVGD: attach_every must not be negative, but is {attach_every}")
        self.stop, self.attach_every, self.optimizer, self.callbacks = stop, attach_every, optimizer, list(callbacks)
        # Of training, in [0, 1], for EpsilonGreedy.
        self.progress = 0.0
        if isinstance(self.control, MetropolisHastings) and not self.target.has_log_prob:
            raise ValueError("SVGD: Metropolis-Hastings needs the target's log density, not a score alone")
        if optimizer is not None and (isinstance(self.control, MetropolisHastings) or bound != "none"):
            raise ValueError("SVGD: with an optimizer, bound must be none and control none or truncation")
        self.process_group = process_group
        if process_group is not None:
            from svgdx.samplers import sharded

            sharded.check_settings(self)

    def sample(
        self,
        n: int | Sequence[int],
        steps: int,
        *,
        batch: tuple[int, ...] = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """n particles after so many steps, (batch..., n, D), without the work that only their density needs."""
        return self._chain(n, steps, batch, generator, log_prob=False, recorded=False).x

    def sample_with_log_prob(
        self,
        n: int | Sequence[int],
        steps: int,
        *,
        batch: tuple[int, ...] = (),
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """n particles after so many steps, (batch..., n, D), and their log density in nats, (batch..., n)."""
        chain = self._chain(n, steps, batch, generator, recorded=False)
        assert chain.log_q is not None
        return chain.x, chain.log_q

    def run(
        self,
        n: int | Sequence[int],
        steps: int,
        *,
        batch: tuple[int, ...] = (),
        generator: torch.Generator | None = None,
        attached: Collection[int] | None = None,
        log_prob: bool = True,
        recorded: bool = True,
    ) -> Chain:
        """A chain of n particles for each of `batch` independent problems, with all that was recorded of it.

        Args:
            n: M, the particles of one problem. With a process_group they are shared out evenly, the first M mod P ranks
                getting one more; or a sequence with the particles of each rank, 0 among them.
            steps: L, at most as many as are learnt.
            batch: leading dimensions, before those of the initial distribution's own batch.
            generator: source of start, probes and decisions; torch's own where None. With a process_group rank 0's
                decides for all, and each rank draws other numbers, the same again for the same number of ranks.
            attached: steps (0 is the first) that keep their graph, in place of those of attach_every.
            log_prob: whether the density is followed.
            recorded: whether the steps are recorded; with a stop or callbacks they always are.

        Returns:
            The chain; x and log_q carry gradients to the start, and to bandwidth and step size of attached steps.

        Raises:
            ValueError: n or steps below 1, more steps than are learnt, or a density where an optimizer has none.
        """
        return self._chain(n, steps, batch, generator, attached, log_prob, recorded)

    def _chain(
        self,
        n: int | Sequence[int],
        steps: int,
        batch: tuple[int, ...],
        generator: torch.Generator | None,
        attached: Collection[int] | None = None,
        log_prob: bool = True,
        recorded: bool = True,
    ) -> Chain:
        if steps < 0 or (self.process_group is None and (not isinstance(n, int) or n < 1)):
            raise ValueError(f"SVGD: n must be at least 1 and steps not negative, but they are {n} and {steps}")
        if log_prob and self.optimizer is not None:
            raise ValueError("SVGD: steps of an optimizer have no density: use sample, or run with log_prob=False")
        numbers = self.kernel.bandwidth.over(steps), self.step_size.over(steps)
        if self.process_group is None:
            assert isinstance(n, int)
            x, log_q = self.initial.draw(n, batch, generator)
            runner = Runner(self, x, log_q if log_prob else None, numbers, generator, recorded)
        else:
            from svgdx.samplers import sharded

            device = next((each.device for each in self.parameters()), torch.device("cpu"))
            count = sharded.count_of_rank(n, self.process_group)
            generator = sharded.generator_of_rank(generator, device, self.process_group)
            x, log_q = self.initial.draw(count, batch, generator)
            runner = sharded.ShardedRunner(self, x, log_q if log_prob else None, numbers, generator, recorded, steps)
        graph = torch.is_grad_enabled() and self.optimizer is None
        graph = graph and (x.requires_grad or any(each.requires_grad for each in self.parameters()))
        with self.target.frozen():
            for step in range(steps):
                if not runner.step(step, graph and self._attached(step, attached)):
                    break
        return runner.finish()

    def _attached(self, step: int, attached: Collection[int] | None) -> bool:
        if attached is not None:
            return step in attached
        return self.attach_every > 0 and (step + 1) % self.attach_every == 0

    def fit(
        self,
        n: int | Sequence[int],
        steps: int,
        epochs: int,
        *,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = Adam,
        scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
        clip: float = 10.0,
        batch: tuple[int, ...] = (),
        generator: torch.Generator | None = None,
        callback: Callable[[int, float, Chain], None] | None = None,
    ) -> list[float]:
        """Trains what is learnt by reverse KL, E[log q - log p] in nats, through the attached steps of fresh chains.

        Args:
            n, steps, batch, generator: as in `run`.
            epochs: updates; `progress` rises from 0 to 1 over them.
            optimizer: makes the optimiser of the parameters.
            scheduler: makes what changes its learning rate after each update; None: nothing does.
            clip: largest norm of the gradient.
            callback: called with epoch, loss and chain before each update.

        Returns:
            The loss of each epoch.

        Raises:
            ValueError: nothing is learnt, or the target is a score alone.
            FloatingPointError: a loss or its gradient is not finite; the parameters are those before it.
        """
        parameters = [each for each in self.parameters() if each.requires_grad]
        if not parameters:
            raise ValueError(
                "SVGD.fit: nothing is learnt: give a Learnt value, a module of the state or LearntGaussian"
            )
        made, losses = optimizer(parameters), []
        rate = None if scheduler is None else scheduler(made)
        for epoch in range(epochs):
            self.progress = epoch / max(1, epochs - 1)
            chain = self.run(n, steps, batch=batch, generator=generator)
            assert chain.log_q is not None
            loss = chain.mean(chain.log_q - self.target.log_prob(chain.x)).mean()
            losses.append(loss.item())
            if callback is not None:
                callback(epoch, losses[-1], chain)
            made.zero_grad()
            loss.backward()
            if self.process_group is not None:
                from svgdx.distributed import sum_gradients

                sum_gradients(parameters, self.process_group)
            norm = nn.utils.clip_grad_norm_(parameters, clip)
            if not (math.isfinite(losses[-1]) and bool(norm.isfinite())):
                raise FloatingPointError(f"SVGD.fit: epoch {epoch}: loss {losses[-1]}, norm of its gradient {norm}")
            made.step()
            if rate is not None:
                rate.step()
        return losses
