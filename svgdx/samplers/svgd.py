"""SVGD samplers: chains of Stein variational gradient descent that follow their own log density."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from types import NoneType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributions, nn

from svgdx._checks import differentiates, integer, one_of, vmapped, without_autocast
from svgdx.samplers.chain import Runner
from svgdx.samplers.control import Control, MetropolisHastings, as_control
from svgdx.samplers.initial import LearntGaussian, as_initial, start_of
from svgdx.samplers.kernels import RBF, Kernel
from svgdx.samplers.parameters import BOUNDS, Value, as_step_size
from svgdx.samplers.particles import placement_of
from svgdx.samplers.state import Chain, State
from svgdx.samplers.stopping import SteinStop
from svgdx.samplers.targets import LogProb, Target, as_target, check_hessian
from svgdx.streams import Source, stream_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

DENSITIES = ("first-order", "logdet", "kernel")
DIVISORS = ("M", "M-1")
Optimiser = Callable[[list[Tensor]], torch.optim.Optimizer]
Callback = Callable[[State], None]
Adam = functools.partial(torch.optim.Adam, lr=1e-2)


class SVGD(nn.Module):
    """Stein variational gradient descent from an initial distribution to a target, with the density of its particles.

    Each step is x' = x + eps phi(x), log q' = log q - log |det(I + eps J)|. `parameters()` holds what is learnt of the
    initial distribution, the bandwidth and the step size; the target's own parameters are not among them.

    Args:
        target: a LogDensity or an Energy (`svgdx.densities`); any other module or callable, which is taken as a log
            density (..., M, D) -> (..., M) in nats up to a constant; a torch.distributions object over vectors; or a
            score alone, as `ScoreTarget(function)`. Wrap an energy of another library in `EnergyTarget`.
        initial: a torch distribution over vectors (D,), or a LearntGaussian.
        kernel: RBF or InverseMultiquadric, with its bandwidth.
        step_size: eps: a number, Learnt, Scheduled, or a module of the state. A particle's own score enters phi with
            weight 1 / M only, so a gradient step of size a needs eps = a M.
        bound: how eps is held under eps_UB = 1 / max_i |J_i|_F: "none", "clamp" or "leaky" (slope LEAKY_SLOPE past it).
        hessian: the Hessian term of Tr J: "none", "hutchinson" (one fresh Rademacher probe per step) or "exact".
        density: "first-order", eps Tr J; "logdet", which is exact and needs D <= 16 and hessian "exact" or "none"; or
            "kernel", eps Tr J without the Hessian's term, which then serves the bound alone.
        divisor: of the trace's kernel sum: "M", or "M-1" as in the code of S2AC.
        control: "none", "truncation", "metropolis-hastings", "epsilon-greedy", or an object with other settings.
        stop: a SteinStop; None makes all steps.
        attach_every: k, so that steps k, 2k, ... keep their graph; 0 detaches all. In a detached step phi and eps are
            constants and x -> x + eps phi keeps only its identity path.
        optimizer: maps a list of tensors to a torch optimiser, which then descends -phi in place of the fixed step;
            such a chain has no density.
        callbacks: called after each step with its State.
        process_group: a group of torch.distributed over whose ranks the particles are sharded. Every rank makes the
            same calls, gets its own particles and takes part in the work of all; records are those of all particles.
            Initial distribution, kernel and step size must be the same on every rank. A missing rank raises after the
            group's timeout. Not supported with Metropolis-Hastings, a module of the state, or an optimizer that does
            not treat each number on its own. None keeps all particles in this process.

    Raises:
        ValueError: an unknown name (the error lists the known ones), or settings that exclude each other.
        TypeError: a target, an initial distribution or another part of another kind.

    Sources: Liu & Wang, NeurIPS 2016; Messaoud et al., S2AC, ICLR 2024, and Particles Don't Care About Z, ICML 2026.
    """

    def __init__(
        self,
        target: Target | distributions.Distribution | nn.Module | LogProb,
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
        _check_same_space(target, initial)
        self.kernel = RBF("median") if kernel is None else kernel
        _check_parts(self.kernel, stop, optimizer, callbacks)
        self.step_size = as_step_size(step_size)
        self.bound = one_of("SVGD", "bound", bound, BOUNDS)
        self.density = one_of("SVGD", "density", density, DENSITIES)
        self.hessian = check_hessian(hessian, density)
        self.divisor = one_of("SVGD", "divisor", divisor, DIVISORS)
        self.control = as_control(control)
        if divisor == "M-1" and density == "logdet":
            raise ValueError('SVGD: divisor "M-1" needs density "first-order"')
        attach_every = integer("SVGD", "attach_every", attach_every)
        if attach_every < 0:
            raise ValueError(f"SVGD: attach_every must not be negative, but is {attach_every}")
        self.stop, self.attach_every, self.optimizer, self.callbacks = stop, attach_every, optimizer, list(callbacks)
        # Progress of training in [0, 1], for EpsilonGreedy.
        self.progress = 0.0
        if isinstance(self.control, MetropolisHastings) and not self.target.has_log_prob:
            raise ValueError("SVGD: Metropolis-Hastings needs the target's log density, not a score alone")
        if optimizer is not None and (isinstance(self.control, MetropolisHastings) or bound != "none"):
            raise ValueError("SVGD: with an optimizer, bound must be none and control none or truncation")
        self.placement = placement_of(process_group)
        self.placement.check(self)

    def sample(
        self,
        n: int | Sequence[int],
        steps: int,
        *,
        batch: int | Sequence[int] = (),
        generator: Source = None,
    ) -> Tensor:
        """Draws n particles by `steps` steps, (batch..., n, D), without the work that only their density needs.

        Arguments and errors as in :meth:`run`.
        """
        return self._chain(n, steps, batch, generator, log_prob=False, recorded=False).x

    def sample_with_log_prob(
        self,
        n: int | Sequence[int],
        steps: int,
        *,
        batch: int | Sequence[int] = (),
        generator: Source = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws n particles by `steps` steps, (batch..., n, D), and their log density in nats, (batch..., n).

        Arguments and errors as in :meth:`run`.
        """
        chain = self._chain(n, steps, batch, generator, recorded=False)
        assert chain.log_q is not None
        return chain.x, chain.log_q

    def run(
        self,
        n: int | Sequence[int],
        steps: int,
        *,
        batch: int | Sequence[int] = (),
        generator: Source = None,
        attached: Collection[int] | None = None,
        log_prob: bool = True,
        recorded: bool = True,
    ) -> Chain:
        """Runs a chain of n particles for each of `batch` independent problems and records its steps.

        It runs in inference mode as under no_grad. Autocast does not apply: a target that wants it enters it.

        Args:
            n: M, the particles of one problem. With a process_group they are divided evenly, and the first M mod P
                ranks get one more; or a sequence with the number of each rank, which may be 0.
            steps: L, at most as many as are learnt.
            batch: leading dimensions, a number or several, before those of the initial distribution's own batch.
            generator: source of start, probes and decisions, a :class:`svgdx.Stream` or a torch.Generator on the device
                of the particles; None takes the seed from torch's default generator of the CPU. The numbers are the
                same on every device. With a process_group that of rank 0 decides for all, each rank draws different
                numbers, and they are reproducible for the same number of ranks.
            attached: steps (0 is the first) that keep their graph, in place of those of attach_every.
            log_prob: whether the density is followed.
            recorded: whether the steps are recorded; with a stop or callbacks they always are.

        Returns:
            The chain; x and log_q carry gradients to the start, and to bandwidth and step size of attached steps.

        Raises:
            RuntimeError: under torch.vmap.
            TypeError: n, steps or batch is not an integer, or attached holds no steps.
            ValueError: n below 1, steps or batch below 0, more steps than are learnt, log_prob with an optimizer, or a
                generator on another device than the initial distribution.
        """
        return self._chain(n, steps, batch, generator, attached, log_prob, recorded)

    @differentiates
    def _chain(
        self,
        n: int | Sequence[int],
        steps: int,
        batch: int | Sequence[int],
        generator: Source,
        attached: Collection[int] | None = None,
        log_prob: bool = True,
        recorded: bool = True,
    ) -> Chain:
        if vmapped():
            raise RuntimeError("SVGD: it cannot run under torch.vmap; batch= samples problems side by side")
        n = n if isinstance(n, (list, tuple)) else integer("SVGD", "n", n)
        steps = integer("SVGD", "steps", steps)
        several = isinstance(batch, Sequence) and not isinstance(batch, str)
        sizes = batch if several or getattr(batch, "ndim", 0) == 1 else (batch,)
        batch = tuple(integer("SVGD", "batch", size) for size in sizes)  # type: ignore[union-attr]
        if min(batch, default=0) < 0:
            raise ValueError(f"SVGD: batch must not be negative, but is {batch}")
        if steps < 0:
            raise ValueError(f"SVGD: steps must not be negative, but is {steps}")
        if log_prob and self.optimizer is not None:
            raise ValueError("SVGD: steps of an optimizer have no density: use sample, or run with log_prob=False")
        count = self.placement.count(n)
        parameters = self.kernel.bandwidth.over(steps), self.step_size.over(steps)
        if not isinstance(attached, (Collection, NoneType)):
            raise TypeError(f"SVGD: attached must hold numbers of steps, but is {type(attached).__name__}")
        stream = self.placement.stream(stream_of("SVGD", generator, self._device()))
        x, log_q = start_of(self.initial, count, batch, stream, log_prob)
        particles = self.placement.particles(self, x, log_q, steps, recorded)
        # A chain that stops early draws less, which must not matter for what the caller draws next.
        runner = Runner(self, particles, x, log_q, parameters, stream.split(), recorded)
        graph = torch.is_grad_enabled() and self.optimizer is None
        graph = graph and (x.requires_grad or any(parameter.requires_grad for parameter in self.parameters()))
        # Autocast would round the kernel's products; a target that wants it enters it on its own.
        with self.target.frozen(), without_autocast(x.device.type):
            for step in range(steps):
                if not runner.step(step, graph and self._attached(step, attached)):
                    break
        return runner.finish()

    def _device(self) -> torch.device:
        """Where the particles start; a start that does not say so is where the parameters are."""
        first = next((parameter.device for parameter in self.parameters()), torch.device("cpu"))
        device: torch.device = getattr(self.initial, "device", first)
        return device

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
        batch: int | Sequence[int] = (),
        generator: Source = None,
        callback: Callable[[int, float, Chain], None] | None = None,
    ) -> list[float]:
        """Trains what is learnt by reverse KL, E[log q - log p] in nats, through the attached steps of fresh chains.

        Args:
            n, steps, batch, generator: as in :meth:`run`.
            epochs: number of updates, an integer, over which `progress` rises from 0 to 1.
            optimizer: makes the optimiser of the parameters.
            scheduler: makes the schedule of its learning rate, stepped after each update; None keeps the rate constant.
            clip: largest norm of the gradient.
            callback: called with epoch, loss and chain before each update.

        Returns:
            The loss of each epoch.

        Raises:
            ValueError: nothing is learnt, the target is a score alone, epochs is negative or clip not positive.
            RuntimeError: in no_grad or inference_mode.
            FloatingPointError: a loss or its gradient is not finite; the parameters are those before it.
        """
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not parameters:
            raise ValueError(
                "SVGD.fit: nothing is learnt: use a Learnt value, a module of the state or a LearntGaussian"
            )
        optimiser, losses = optimizer(parameters), []
        schedule = None if scheduler is None else scheduler(optimiser)
        epochs = integer("SVGD.fit", "epochs", epochs)
        if not torch.is_grad_enabled():
            raise RuntimeError("SVGD.fit: gradients are off; call it outside of no_grad and inference_mode")
        if epochs < 0 or not clip > 0:
            raise ValueError(f"SVGD.fit: epochs must not be negative and clip positive, but are {epochs} and {clip}")
        for epoch in range(epochs):
            self.progress = epoch / max(1, epochs - 1)
            chain = self.run(n, steps, batch=batch, generator=generator)
            assert chain.log_q is not None
            loss = chain.mean(chain.log_q - self.target.log_prob(chain.x)).mean()
            optimiser.zero_grad()
            loss.backward()
            self.placement.sum_gradients(parameters)
            norm = nn.utils.clip_grad_norm_(parameters, clip)
            # Read together, which is the only wait of an epoch for a GPU.
            value, size = torch.stack([loss.detach(), norm.to(loss.dtype)]).tolist()
            losses.append(value)
            if callback is not None:
                callback(epoch, value, chain)
            if not (math.isfinite(value) and math.isfinite(size)):
                raise FloatingPointError(f"SVGD.fit: epoch {epoch}: loss {value}, norm of its gradient {size}")
            optimiser.step()
            if schedule is not None:
                schedule.step()
        return losses


def _check_parts(kernel: object, stop: object, optimizer: object, callbacks: object) -> None:
    """Raises TypeError, naming the argument, if a part of a sampler is of another kind."""
    expected = None
    if not isinstance(kernel, Kernel):
        expected = "kernel", "a kernel such as RBF(1.0)", kernel
    elif not isinstance(stop, (SteinStop, NoneType)):
        expected = "stop", "a SteinStop or None", stop
    elif not (optimizer is None or callable(optimizer)):
        expected = "optimizer", "a function of a list of tensors such as functools.partial(Adam, lr=0.1)", optimizer
    elif not isinstance(callbacks, Sequence):
        expected = "callbacks", "a list of functions", callbacks
    if expected is not None:
        name, kind, value = expected
        raise TypeError(f"SVGD: {name} must be {kind}, but is {type(value).__name__}")


def _check_same_space(target: object, initial: object) -> None:
    """Raises ValueError if target and initial distribution are known to be over vectors of different dimensions."""
    shape = None
    if isinstance(initial, distributions.Distribution):
        shape = initial.event_shape
    if isinstance(initial, LearntGaussian):
        shape = initial.mean.shape
    if shape is not None and isinstance(target, distributions.Distribution) and shape != target.event_shape:
        raise ValueError(
            f"SVGD: initial must be over {tuple(target.event_shape)} as the target, but is over {tuple(shape)}"
        )
