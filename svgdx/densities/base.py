"""The two signs of a density, and the one function that tells them apart."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LogProb = Callable[[Tensor], Tensor]


class LogDensity(nn.Module):
    """Log density f with p(x) ∝ exp(f(x)).

    ``forward`` of a subclass maps x (..., D) to f (...), in nats and up to a constant.
    """


class Energy(nn.Module):
    """Energy E with p(x) ∝ exp(-E(x)).

    ``forward`` of a subclass maps x (..., D) to E (...), in nats and up to a constant.
    """


class EnergyTarget(LogDensity):
    """Log density -beta E(x) of an energy E, which may come from any library.

    E receives a matrix of row vectors (N, D), whatever the leading dimensions of x, and must return one energy for each
    row, (N,) or (N, 1).

    Args:
        module: E, a module or another callable. Its parameters are those of the EnergyTarget; a sampler of the target
            does not train them.
        beta: inverse temperature, positive: the target is p(x) ∝ exp(-beta E(x)).
        per_row: whether E maps one vector (D,) to its energy, () or (1,), instead of rows to energies. It is then
            applied to each row by ``torch.func.vmap``. Nothing is inferred: without per_row, a single number for
            several rows is an error, because E may have summed over them.

    Raises:
        TypeError: module is not callable or is a LogDensity, or beta is not a number.
        ValueError: beta is not positive and finite.
    """

    def __init__(self, module: Callable[..., Tensor], beta: float = 1.0, *, per_row: bool = False) -> None:
        super().__init__()
        if isinstance(module, LogDensity):
            raise TypeError(f"EnergyTarget: {_name(module)} is a LogDensity and therefore a target already")
        if not callable(module):
            raise TypeError(f"EnergyTarget: module must be callable, but is {type(module).__name__}")
        self.module, self.beta, self.per_row = module, _checked_beta(beta), per_row

    def forward(self, x: Tensor, *conditions: Any, **named_conditions: Any) -> Tensor:
        """-beta E in nats, up to a constant: (..., D) -> (...).

        Conditions are passed on to E after x. A tensor among them starts with the leading dimensions of x, or with 1 in
        the place of some, and is flattened to N rows like x; any other value is passed on as it is. To sample with a
        condition, bind it: ``SVGD(functools.partial(EnergyTarget(module), label=label), initial)``.

        Raises:
            TypeError: E does not return a tensor.
            ValueError: x has no dimension, a condition does not match x, or E does not return one energy for each row.
        """
        if x.dim() == 0:
            raise ValueError("EnergyTarget: x must have shape (..., D), but has ()")
        leading = x.shape[:-1]
        rows = x.reshape(math.prod(leading), x.shape[-1])
        values = [_as_rows(str(index), value, leading) for index, value in enumerate(conditions)]
        named = {name: _as_rows(name, value, leading) for name, value in named_conditions.items()}
        energies = self._map_rows(rows, values, named) if self.per_row else self.module(rows, *values, **named)
        return -self.beta * self._checked(energies, rows).reshape(leading)

    def _map_rows(self, rows: Tensor, values: list[Any], named: dict[str, Any]) -> Tensor:
        """Energies (N,) of an E that takes one vector, with the conditions of its row."""
        if len(rows) == 0:
            return rows.sum(-1)

        def energy(row: Tensor, values: list[Any], named: dict[str, Any]) -> Tensor:
            result = self.module(row, *values, **named)
            if not isinstance(result, Tensor) or result.shape not in ((), (1,)):
                raise ValueError(
                    f"EnergyTarget: {_name(self.module)} must map a vector {tuple(row.shape)} to one number if per_row "
                    f"is set, but returns {_shape(result)}"
                )
            return result.reshape(())

        # A tensor has an entry for each row; all rows share any other value.
        of_values = [0 if isinstance(value, Tensor) else None for value in values]
        of_named = {name: 0 if isinstance(value, Tensor) else None for name, value in named.items()}
        mapped = torch.func.vmap(energy, (0, of_values, of_named), randomness="different")
        return mapped(rows, values, named)

    def _checked(self, energies: object, rows: Tensor) -> Tensor:
        """Energies (N,), if they are one for each row."""
        count, name = len(rows), _name(self.module)
        if not isinstance(energies, Tensor):
            raise TypeError(f"EnergyTarget: {name} must return a tensor, but returns {type(energies).__name__}")
        if energies.dim() == 0 and count != 1:
            raise ValueError(
                f"EnergyTarget: {name} returns a single number for {count} rows. If it maps one vector (D,) to its "
                "energy, pass per_row=True; if it takes rows, it must not sum or average over them"
            )
        if energies.shape not in ((count,), (count, 1), ()):
            raise ValueError(
                f"EnergyTarget: {name} must map rows {tuple(rows.shape)} to energies ({count},) or ({count}, 1), "
                f"but returns {_shape(energies)}"
            )
        return energies

    def extra_repr(self) -> str:
        return f"beta={self.beta}, per_row={self.per_row}"


def as_log_density(target: LogProb) -> LogProb:
    """Returns the log density of a target, (..., D) -> (...), whichever sign the target has.

    A LogDensity is returned as it is, an Energy as its :class:`EnergyTarget`. Any other module or callable is a log
    density. A UserWarning says so if its name, or that of a class it derives from, contains "energy" or "EBM": wrap it
    in EnergyTarget if it returns an energy, and derive it from LogDensity if it does not.

    Raises:
        TypeError: the target is not callable.
    """
    if isinstance(target, LogDensity):
        return target
    if isinstance(target, Energy):
        return EnergyTarget(target)
    if isinstance(target, type):
        raise TypeError(f"as_log_density: target must be an object, but is the class {target.__name__}")
    if not callable(target):
        raise TypeError(
            f"as_log_density: target must be a LogDensity, an Energy or a callable, but is {type(target).__name__}"
        )
    if _is_called_energy(target):
        warnings.warn(
            f"{_name(target)} is taken as a log density f with p(x) ∝ exp(f(x)). If it returns an energy, wrap it in "
            "svgdx.densities.EnergyTarget; if not, derive it from svgdx.densities.LogDensity to silence this warning.",
            UserWarning,
            stacklevel=3,
        )
    return target


def _checked_beta(beta: object) -> float:
    if isinstance(beta, bool) or not isinstance(beta, numbers.Real):
        raise TypeError(f"EnergyTarget: beta must be a number, but is {type(beta).__name__}")
    number = float(beta)
    if not 0 < number < math.inf:
        raise ValueError(f"EnergyTarget: beta must be positive and finite, but is {number}")
    return number


def _is_called_energy(target: object) -> bool:
    classes = [cls for cls in type(target).__mro__ if cls.__module__.split(".")[0] != "torch"]
    names = [getattr(target, "__name__", ""), *(cls.__name__ for cls in classes)]
    return any(word in name.lower() for name in names for word in ("energy", "ebm"))


def _as_rows(name: str, condition: Any, leading: torch.Size) -> Any:
    """A tensor condition with the leading dimensions of x flattened to one."""
    if not isinstance(condition, Tensor):
        return condition
    dims, rest = condition.shape[: len(leading)], condition.shape[len(leading) :]
    if len(dims) < len(leading) or any(size not in (1, of_x) for size, of_x in zip(dims, leading, strict=True)):
        raise ValueError(
            f"EnergyTarget: condition {name} must start with the leading dimensions of x, {tuple(leading)}, or with 1 "
            f"in the place of some, but has shape {tuple(condition.shape)}"
        )
    return condition.expand((*leading, *rest)).reshape((math.prod(leading), *rest))


def _name(target: object) -> str:
    return getattr(target, "__name__", type(target).__name__)


def _shape(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
