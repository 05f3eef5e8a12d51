"""Settings of `svgdx train rl`, with the defaults of each environment and algorithm."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from svgdx.activations import FROM_VALUE
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.settings import Settings, flag, option

ALGORITHMS = ("sac", "sac-nf", "stein")
MULTIGOAL = "svgdx/Multigoal-v0"

# What differs from the defaults of the fields, which are those of MuJoCo's environments and of "stein".
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "Pendulum-v1": {"steps": 15_000, "random_steps": 1000, "checkpoint_every": 5000},
    # alpha: between 1 and 10, where the exact soft-optimal policy, by value iteration, reaches every goal as often. The
    # others: values of -140 are learnt within 15,000 steps, and to a few nats, or the policy follows the critics' error
    # to one goal.
    MULTIGOAL: {
        "steps": 15_000, "random_steps": 8000, "checkpoint_every": 5000, "alpha": 8.0, "gamma": 0.9, "lr": 3e-3,
        "polyak": 0.98, "hidden": 64, "activation": "softplus", "goals": "four",
    },
}  # fmt: skip
ALGORITHM_DEFAULTS: dict[str, dict[str, Any]] = {
    "sac": {"activation": "relu", "actor_layers": 2},
    "sac-nf": {"activation": "relu", "actor_layers": 2, "flow_transforms": 3},
    "stein": {"preset": "met-svgd", "test_action": "best", "test_temperature": 1.0},
}

# Those of svgdx.rl.presets.SteinSettings, whose number of steps is here svgd_steps.
STEIN = (
    "particles", "svgd_steps", "target", "bandwidth", "bandwidth_start", "step", "step_size", "bound", "hessian",
    "density", "divisor", "control", "mh_iterations", "mh_low", "mh_high", "stop_threshold", "patience",
)  # fmt: skip
ONLY = {
    "stein": ("preset", *STEIN, "test_action", "test_temperature"),
    "sac-nf": ("flow_transforms",),
}


def _stein(text: str, kind: type) -> Any:
    return option(None, "stein policy", text + " (default: the preset's)", kind=kind, least=-math.inf)


@dataclass
class RLConfig(Settings):
    """Settings of `svgdx train rl`. Steps are those of the environment; returns, Q and alpha are in units of reward."""

    program = "train rl"
    selectors = ("env", "algo", "preset")
    variants = ENVIRONMENTS | ALGORITHM_DEFAULTS

    env: str = option(
        "Walker2d-v5", "environment", "name in Gymnasium's registry, such as svgdx/Multigoal-v0", metavar="ID"
    )
    goals: str | None = option(None, "environment", "of svgdx/Multigoal-v0: four or three")

    algo: str = option("stein", "algorithm", "SAC, SAC with a normalising flow, or SteinSAC", ALGORITHMS)
    flow_transforms: int | None = option(None, "algorithm", "sac-nf: autoregressive transforms", kind=int, least=1)
    hidden: int = option(256, "algorithm", "width of the hidden layers", least=1)
    actor_layers: int = option(3, "algorithm", "hidden layers of the actor's network", least=1)
    critic_layers: int = option(2, "algorithm", "hidden layers of a critic", least=1)
    activation: str = option("elu", "algorithm", "activation between layers", tuple(FROM_VALUE))
    gamma: float = option(0.99, "algorithm", "discount", most=1)
    alpha: float = option(
        0.2, "algorithm", "temperature: reward for a nat of entropy; its start if tuned", positive=True
    )
    alpha_rule: str = option("fixed", "algorithm", "alpha stays, or is tuned to a target entropy", ("fixed", "tuned"))
    target_entropy: float | None = option(
        None, "algorithm", "tuned: nats of the action (default: SAC's rule, -D)", kind=float, least=-math.inf
    )
    lr: float = option(1e-3, "algorithm", "Adam's learning rate", positive=True)
    batch: int = option(100, "algorithm", "transitions of an update", least=1)
    buffer: int = option(1_000_000, "algorithm", "transitions kept for replay", least=1)
    polyak: float = option(0.995, "algorithm", "decay of the target critics' mean", most=1)
    random_steps: int = option(10_000, "algorithm", "steps with uniformly random actions")
    update_after: int = option(1000, "algorithm", "steps before the first update", least=1)
    update_every: int = option(50, "algorithm", "steps between updates", least=1)
    updates: int = option(50, "algorithm", "updates made each time", least=1)

    preset: str | None = option(None, "stein policy", "row of the published comparison, such as p-svgd, met-svgd-mh")
    particles: int | None = _stein("particles M", int)
    svgd_steps: int | None = _stein("SVGD steps L", int)
    target: str | None = _stein("s2ac or max-entropy: density that the particles go to", str)
    bandwidth: str | None = _stein("learnt, or a heuristic", str)
    bandwidth_start: float | None = _stein("sigma before training", float)
    step: str | None = _stein("learnt or fixed", str)
    step_size: float | None = _stein("eps before training, or for good", float)
    bound: str | None = _stein("what holds eps under its bound: none, clamp, leaky ...", str)
    hessian: str | None = _stein("the Hessian term of Tr J", str)
    density: str | None = _stein("first-order or exact log-determinant", str)
    divisor: str | None = _stein("of the trace's kernel sum", str)
    control: str | None = _stein("what may refuse steps or particles", str)
    mh_iterations: int | None = _stein("most iterations of the inverse map", int)
    mh_low: float | None = _stein("epsilon-greedy: probability of an MH step at the start", float)
    mh_high: float | None = _stein("epsilon-greedy: the same at the end", float)
    stop_threshold: float | None = _stein("a chain stops once its Stein discrepancy is less; 0: never", float)
    patience: int | None = _stein("a chain stops after so many rises of it; 0: never", int)
    test_action: str | None = option(None, "stein policy", "evaluation: best particle, or softmax over Q")
    test_temperature: float | None = option(None, "stein policy", "softmax: its temperature", kind=float, positive=True)

    steps: int = option(1_000_000, "run", "steps of the environment, a multiple of --update-every", least=1)
    seed: int = option(0, "run", "seed of everything random")
    threads: int = option(1, "run", "CPU threads; 0 takes as many as torch does")
    eval_every: int = option(1000, "run", "steps between evaluations", least=1)
    eval_episodes: int = option(10, "run", "rollouts of an evaluation", least=1)
    log_every: int = option(1000, "run", "steps between lines of metrics.jsonl", least=1)
    checkpoint_every: int = option(10_000, "run", "steps between checkpoints", least=1)
    keep_checkpoints: int = option(2, "run", "checkpoints kept, the newest; each holds the replay buffer", least=1)

    @classmethod
    def defaults_for(cls, options: dict[str, Any]) -> dict[str, Any]:
        environment = ENVIRONMENTS.get(options.get("env", cls.env), {})
        return environment | ALGORITHM_DEFAULTS.get(options.get("algo", cls.algo), {})

    def validate(self) -> None:
        super().validate()
        for algo, names in ONLY.items():
            for name in names:
                if algo != self.algo and getattr(self, name) is not None:
                    raise UsageError(f"{flag(name)}: only with --algo {algo}")
        if self.goals is not None and self.env != MULTIGOAL:
            raise UsageError(f"--goals: only with --env {MULTIGOAL}")
        if self.target_entropy is not None and self.alpha_rule == "fixed":
            raise UsageError("--target-entropy: only with --alpha-rule tuned")
        for name in ("steps", "eval_every", "log_every", "checkpoint_every"):
            value = getattr(self, name)
            if value % self.update_every:
                raise UsageError(
                    f"{flag(name)}: must be a multiple of --update-every = {self.update_every}, but is {value}"
                )

    @property
    def env_kwargs(self) -> dict[str, Any]:
        return {} if self.goals is None else {"goals": self.goals}

    @property
    def label(self) -> str:
        """The algorithm and its preset, a line of a report."""
        return self.algo if self.preset is None else self.preset


# What shows the shares of the goals.
EVALUATION_DEFAULTS: dict[str, dict[str, Any]] = {MULTIGOAL: {"episodes": 200, "actions": "sampled"}}


@dataclass
class RLEvaluationSettings(Settings):
    """Settings of `svgdx eval rl`."""

    program = "eval rl"
    variants = EVALUATION_DEFAULTS

    episodes: int = option(10, "evaluation", "rollouts", least=1)
    actions: str = option(
        "test", "evaluation", "as in evaluations of the training, or sampled from the policy", ("test", "sampled")
    )
    seed: int = option(0, "evaluation", "seed of the rollouts")
    threads: int = option(1, "evaluation", "CPU threads", least=1)

    @classmethod
    def for_environment(cls, env: str, given: dict[str, Any]) -> RLEvaluationSettings:
        """What was given, and the environment's defaults for the rest. Raises UsageError where a value does not fit."""
        return cls.from_options(EVALUATION_DEFAULTS.get(env, {}) | given)


assert all(
    name in {each.name for each in dataclasses.fields(RLConfig)}
    for changes in [*ENVIRONMENTS.values(), *ALGORITHM_DEFAULTS.values()]
    for name in changes
)
