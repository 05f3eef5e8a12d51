"""What SteinSAC and SACNF share beyond Stable-Baselines3: random steps, a generator of actions, settings on loading."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy

from svgdx._checks import without_autocast

Self = TypeVar("Self", bound="Extension")
Prediction = tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]


class RandomSteps(OffPolicyAlgorithm):
    """Acts at random for the first `random_steps` steps, whereas Stable-Baselines3 does so for `learning_starts`."""

    random_steps = 0

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        actions: tuple[NDArray[Any], NDArray[Any]] = super()._sample_action(self.random_steps, action_noise, n_envs)
        return actions


class GeneratorPolicy(BasePolicy):
    """A policy whose actions can be drawn from a generator; `_predict` of a subclass reads `generator`."""

    generator: torch.Generator | None = None

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """The actions at observations, as in Stable-Baselines3.

        Args:
            observation, state, episode_start, deterministic: as in Stable-Baselines3.
            generator: source of the random numbers, on the policy's device; None uses torch's default generator.

        Returns:
            The actions in the environment's units, and `state`.
        """
        with self._drawing_from(generator):
            prediction: Prediction = super().predict(observation, state, episode_start, deterministic)
        return prediction

    @contextmanager
    def _drawing_from(self, generator: torch.Generator | None) -> Iterator[None]:
        self.generator = generator
        try:
            yield
        finally:
            self.generator = None


@contextmanager
def updating(owner: str, device: torch.device) -> Iterator[None]:
    """A context for updates, in which autocast is off. Raises RuntimeError if gradients are off."""
    if not torch.is_grad_enabled():
        raise RuntimeError(f"{owner}.train: gradients are off; learn outside of no_grad and inference_mode")
    with without_autocast(device.type):
        yield


class Extension(OffPolicyAlgorithm):
    """An algorithm with a temperature `ent_coef`, whose `load` applies every setting or refuses it."""

    ent_coef: str | float
    log_ent_coef: torch.Tensor | None
    ent_coef_optimizer: torch.optim.Adam | None

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """The policy's actions, see `GeneratorPolicy.predict`."""
        prediction: Prediction = self.policy.predict(observation, state, episode_start, deterministic, generator)
        return prediction

    @classmethod
    def load(cls: type[Self], path: Any, env: Any = None, device: Any = "auto", *args: Any, **kwargs: Any) -> Self:
        """The algorithm that `save` wrote, with some settings changed.

        Args:
            path, env, device, args: as in Stable-Baselines3.
            kwargs: arguments of `load` in Stable-Baselines3, or settings that replace the saved ones.

        Raises:
            TypeError: a setting that the algorithm does not have. ValueError: a setting that does not fit the saved
                networks.
        """
        known = _parameters(cls, "__init__") - {"policy", "env", "_init_setup_model"} | _parameters(cls, "load")
        for name in kwargs:
            if name not in known:
                raise TypeError(f"{cls.__name__}.load: {name} is not a setting of {cls.__name__}")
        later = {name: kwargs.pop(name) for name in cls._settings_after_loading() if name in kwargs}
        model: Self = super().load(path, env, device, *args, **kwargs)
        model._apply(later)
        return model

    @classmethod
    def _settings_after_loading(cls) -> tuple[str, ...]:
        """The settings that what is saved would override, so that they are applied after it was put back."""
        return ("ent_coef",)

    def _apply(self, settings: dict[str, Any]) -> None:
        """Applies settings of `_settings_after_loading` to a loaded algorithm."""
        if "ent_coef" in settings:
            self.ent_coef = settings["ent_coef"]
            self._set_temperature()

    def _set_temperature(self) -> None:
        """Makes alpha what `ent_coef` says: a fixed number, or a logarithm that an optimizer tunes."""
        is_tuned = isinstance(self.ent_coef, str) and self.ent_coef.startswith("auto")
        text = str(self.ent_coef)
        try:
            alpha = float(text.removeprefix("auto").removeprefix("_") or "1") if is_tuned else float(self.ent_coef)
        except (TypeError, ValueError):
            alpha = math.nan
        if not (alpha > 0 and math.isfinite(alpha)):
            message = f"ent_coef must be positive, or 'auto' or 'auto_X', but is {self.ent_coef!r}"
            raise ValueError(f"{type(self).__name__}: {message}")
        self.log_ent_coef = self.ent_coef_optimizer = None
        if is_tuned:
            self.log_ent_coef = torch.tensor(math.log(alpha), device=self.device, requires_grad=True)
            self.ent_coef_optimizer = torch.optim.Adam([self.log_ent_coef], lr=self.lr_schedule(1), fused=True)
        else:
            self.ent_coef_tensor = torch.tensor(alpha, device=self.device)


def _parameters(cls: type[Any], method: str) -> set[str]:
    """The names of the parameters of a method in a class and all its bases."""
    methods = [vars(base)[method] for base in cls.__mro__ if method in vars(base) and base is not object]
    return {
        name for function in methods for name in inspect.signature(getattr(function, "__func__", function)).parameters
    }


__all__ = ["Extension", "GeneratorPolicy", "RandomSteps", "updating"]
