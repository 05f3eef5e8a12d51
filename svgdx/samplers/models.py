"""Networks as particles of SVGD: samples of the posterior of a module's parameters, from minibatches."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from svgdx._checks import differentiates, integer, real
from svgdx.samplers.kernels import RBF, Kernel
from svgdx.samplers.state import State
from svgdx.samplers.svgd import Adam, Optimiser

LogLikelihood = Callable[..., Tensor]


class Prediction(NamedTuple):
    """Mean and standard deviation of an output over the particles, each of the shape of one network's output."""

    mean: Tensor
    deviation: Tensor


class ModuleParticles(nn.Module):
    """n networks of one architecture, whose parameters SVGD moves towards their posterior.

    A particle is the vector theta_i (D,) of one network's parameters. `step` evaluates the score of all of them on a
    minibatch, and the optimiser descends -phi. The networks are evaluated side by side by torch.func.vmap, so that
    their forward pass must be one that vmap takes. Of `parameters()` only `theta` requires a gradient. A checkpoint
    needs `state_dict()` and `optimizer.state_dict()`.

    Args:
        module: a module, of which each network is a copy with parameters drawn anew by the `reset_parameters` of its
            layers; or a function without arguments that makes one, which is called n times.
        n: number of networks, at least 2.
        names: the parameters that are particles, such as ["head.weight", "head.bias"]; a name also stands for all below
            it, as "head". The others are fixed, and in all networks those of `module`, or of the first one made. None
            takes all.
        prior: standard deviation s of the prior N(0, s^2) on each parameter; math.inf for a flat one.
        kernel: RBF or InverseMultiquadric, with its bandwidth.
        optimizer: maps a list of tensors to a torch optimiser. In phi a particle's own score has weight 1 / n, so plain
            gradient descent needs n times the learning rate of one network.

    Attributes:
        theta: the particles, (n, D).
        optimizer: the torch optimiser of theta.

    Raises:
        ValueError: n below 2, no parameters or none of a name, a prior that is not positive, networks that all start
            with the same parameters, or batch norm that would update running statistics.
        TypeError: a module that is neither a module nor a function that makes one.

    Source: Liu & Wang, NeurIPS 2016, section 5.
    """

    def __init__(
        self,
        module: nn.Module | Callable[[], nn.Module],
        n: int,
        *,
        names: Collection[str] | None = None,
        prior: float = 1.0,
        kernel: Kernel | None = None,
        optimizer: Optimiser = Adam,
    ) -> None:
        super().__init__()
        n = integer("ModuleParticles", "n", n)
        if n < 2:
            raise ValueError(f"ModuleParticles: n must be at least 2, but is {n}")
        if not prior > 0:
            raise ValueError(f"ModuleParticles: prior must be a positive standard deviation, but is {prior}")
        networks = [_drawn(module) for _ in range(n)]
        template = copy.deepcopy(module) if isinstance(module, nn.Module) else networks[0]
        self.module = template.requires_grad_(False)
        for name, layer in self.module.named_modules():
            if isinstance(layer, _BatchNorm) and layer.track_running_stats:
                raise ValueError(
                    f"ModuleParticles: {name or 'module'} is a batch norm with running statistics, which the networks "
                    "would overwrite; pass track_running_stats=False, or use nn.GroupNorm"
                )
        parameters = dict(self.module.named_parameters())
        if not parameters:
            raise ValueError("ModuleParticles: module must have parameters, but has none")
        self.names = tuple(parameters) if names is None else _selected(parameters, names)
        self.shapes = [parameters[name].shape for name in self.names]
        rows = [[network.get_parameter(name).detach().flatten() for name in self.names] for network in networks]
        theta = torch.stack([torch.cat(row) for row in rows])
        if bool((theta == theta[0]).all()):
            raise ValueError(
                "ModuleParticles: all networks start with the same parameters, at which they would stay; the layers of "
                "module need reset_parameters, or pass a function that makes a module with random parameters"
            )
        self.theta = nn.Parameter(theta)
        self.prior, self.kernel = float(prior), RBF("median") if kernel is None else kernel
        self.optimizer = optimizer([self.theta])
        self.steps = 0

    @differentiates
    def step(self, log_likelihood: LogLikelihood, *batch: Tensor, scale: float = 1.0) -> Tensor:
        """Moves all networks by one step of the optimiser down -phi.

        Args:
            log_likelihood: maps a network and the batch to the sum of the log-likelihoods of its rows, in nats, as
                `lambda network, x, y: -cross_entropy(network(x), y, reduction="sum")`. It is called once, under vmap,
                for all networks.
            *batch: passed on to it; the same for all networks.
            scale: rows of the data set over rows of the batch, so that the batch stands for all data.

        Returns:
            The mean over the networks of the log posterior in nats, up to a constant, before the step; () and detached.

        Raises:
            ValueError: log_likelihood does not return one number.
            TypeError: it returns something other than a tensor of real numbers.
            FloatingPointError: on the CPU, the score of a network is not finite, which phi would carry to all of them;
                no network has moved. On a GPU, the check would wait for it and is left to the caller.
        """

        def log_posterior(theta: Tensor) -> tuple[Tensor, Tensor]:
            value = log_likelihood(functools.partial(self._call, theta), *batch)
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"ModuleParticles: log_likelihood must return a tensor, but returns {type(value).__name__}"
                )
            real("ModuleParticles", "the result of log_likelihood", value)
            if value.numel() != 1:
                raise ValueError(
                    f"ModuleParticles: log_likelihood must return one number, but returns shape {tuple(value.shape)}; "
                    "sum the log-likelihoods of the rows"
                )
            total = scale * value.reshape(()) - 0.5 * (theta / self.prior).square().sum()
            return total, total.detach()

        theta = self.theta.detach()
        score, values = torch.func.vmap(torch.func.grad(log_posterior, has_aux=True), randomness="different")(theta)
        if score.device.type == "cpu" and not bool(score.isfinite().all()):
            count = int((~score.isfinite().all(-1)).sum())
            raise FloatingPointError(
                f"ModuleParticles: step {self.steps}: the gradient of the log posterior is not finite for {count} of "
                f"{len(score)} networks, whose mean log posterior is {values.mean().item():g}; no network has moved"
            )
        with torch.no_grad():
            bandwidth = self.kernel.bandwidth(State(self.steps, theta, score, None))
            self.theta.grad = -self.kernel.phi(theta, score, self.kernel.checked(bandwidth, theta))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        mean: Tensor = values.mean()
        return mean

    def forward(self, *inputs: Tensor) -> Tensor:
        """The outputs of all networks on the same inputs, (n, ...)."""
        outputs: Tensor = torch.func.vmap(lambda theta: self._call(theta, *inputs), randomness="different")(self.theta)
        return outputs

    @torch.no_grad()
    def predict(self, *inputs: Tensor, transform: Callable[[Tensor], Tensor] | None = None) -> Prediction:
        """Mean and standard deviation over the networks of their outputs on the same inputs.

        Args:
            *inputs: of one network.
            transform: applied to the outputs (n, ...) first, as `lambda logits: logits.softmax(-1)`.
        """
        outputs = self(*inputs)
        outputs = outputs if transform is None else transform(outputs)
        return Prediction(outputs.mean(0), outputs.std(0))

    def network(self, index: int) -> nn.Module:
        """A copy of network `index`, with parameters that can be trained on.

        Raises IndexError if there is none.
        """
        network = copy.deepcopy(self.module)
        network.load_state_dict(self._parameters_of(self.theta.detach()[index]), strict=False)
        return network.requires_grad_(True)

    def get_extra_state(self) -> Tensor:
        """The number of steps, which `state_dict` keeps for bandwidths that follow a schedule."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores what :meth:`get_extra_state` returned."""
        self.steps = int(state)

    def _parameters_of(self, theta: Tensor) -> dict[str, Tensor]:
        pieces = theta.split([shape.numel() for shape in self.shapes])
        return {name: piece.view(shape) for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)}

    def _call(self, theta: Tensor, *inputs: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self.module, self._parameters_of(theta), inputs)
        return outputs


def _drawn(module: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """A network of its own, with parameters drawn anew."""
    if isinstance(module, nn.Module):
        network = copy.deepcopy(module)
        for layer in network.modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
        return network
    network = module() if callable(module) else module
    if not isinstance(network, nn.Module):
        raise TypeError(
            "ModuleParticles: module must be a torch.nn.Module or a function without arguments that returns one, but "
            f"the module is {type(network).__name__}"
        )
    return network


def _selected(parameters: dict[str, nn.Parameter], names: Collection[str]) -> tuple[str, ...]:
    """The names of the parameters that are named, or below a name, in the module's order."""
    names = (names,) if isinstance(names, str) else tuple(names)
    selected = tuple(name for name in parameters if any(f"{name}.".startswith(f"{chosen}.") for chosen in names))
    missing = [chosen for chosen in names if not any(f"{name}.".startswith(f"{chosen}.") for name in parameters)]
    if missing or not selected:
        raise ValueError(
            f"ModuleParticles: names must be among the module's parameters {list(parameters)}, but are {list(names)}"
        )
    return selected


__all__ = ["ModuleParticles", "Prediction"]
