"""Settings of `svgdx train rl`, with the defaults of each environment and algorithm."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from svgdx.activations import FROM_VALUE
from svgdx.experiments.run.compute.amp import amp_option
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.settings import MOST_THREADS, Settings, device_option, flag, graph_option, option
from svgdx.samplers import BOUNDS, CONTROLS, DENSITIES, HESSIANS, HEURISTICS
from svgdx.samplers.svgd import DIVISORS

ALGORITHMS = ("sac", "sac-nf", "stein")
MULTIGOAL = "svgdx/Multigoal-v0"

# Defaults of an environment that differ from those of the fields, which are for MuJoCo and "stein".
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "Pendulum-v1": {"steps": 15_000, "random_steps": 1000, "checkpoint_every": 5000},
    # For alpha between 1 and 10, the exact soft-optimal policy (by value iteration) reaches every goal equally often.
    # The others let the critics learn values of -140 to a few nats in 15,000 steps; with larger errors, the policy
    # follows the error to a single goal.
    MULTIGOAL: {
        "steps": 15_000, "random_steps": 8000, "checkpoint_every": 5000, "alpha": 8.0, "gamma": 0.9, "lr": 3e-3,
        "polyak": 0.98, "hidden": 64, "activation": "softplus", "goals": "four",
    },
}  # fmt: skip
# Those of an algorithm, which override those of the environment.
ALGORITHM_DEFAULTS: dict[str, dict[str, Any]] = {
    "sac": {"activation": "relu", "actor_layers": 2},
    "sac-nf": {"activation": "relu", "actor_layers": 2, "flow_transforms": 3},
    "stein": {"preset": "met-svgd", "activation": "softplus", "test_action": "best", "test_temperature": 1.0},
}
# What the published runs of our presets have in place of ours, with --published yes.
PUBLISHED: dict[str, Any] = {"activation": "elu", "start": "clamp", "step_size": 0.1}

# The fields of svgdx.rl.presets.SteinSettings, whose `steps` is called `svgd_steps` here.
STEIN = (
    "particles", "svgd_steps", "target", "bandwidth", "bandwidth_start", "step", "step_size", "start", "bound",
    "hessian", "density", "divisor", "control", "mh_iterations", "mh_low", "mh_high", "stop_threshold", "patience",
)  # fmt: skip
# Settings that only one algorithm has.
ONLY = {
    "stein": ("preset", "published", *STEIN, "test_action", "test_temperature"),
    "sac-nf": ("flow_transforms",),
}


def _stein(text: str, kind: type = str, choices: tuple[str, ...] | None = None) -> Any:
    """A field that takes the preset's value if it is not set, and whose range SteinSettings checks."""
    return option(None, "stein policy", text, choices, kind=kind, least=-math.inf)


@dataclass
class RLConfig(Settings):
    """Settings of `svgdx train rl`. Steps are those of the environment; returns, Q and alpha are in units of reward."""

    program = "train rl"
    selectors = ("env", "algo", "preset")
    variants = ENVIRONMENTS | ALGORITHM_DEFAULTS | {"--published yes": PUBLISHED}
    added: ClassVar[dict[str, Any]] = {"max_episode_steps": 0, "normalize": "none", "published": None, "start": None}

    env: str = option(
        "Walker2d-v5",
        "environment",
        "a name in Gymnasium's registry, or MODULE:NAME to import MODULE first",
        metavar="ID",
    )
    max_episode_steps: int = option(
        0, "environment", "limit on the steps of an episode; 0 keeps the limit with which the environment is registered"
    )
    normalize: str = option(
        "none", "environment",
        "what VecNormalize scales by its running mean and deviation; evaluations report returns as they are",
        ("none", "observations", "rewards", "both"),
    )  # fmt: skip
    goals: str | None = option(None, "environment", f"goals of {MULTIGOAL}: four or three")

    algo: str = option(
        "stein", "algorithm", "SAC with a Gaussian policy, with a normalising flow, or with a Stein policy", ALGORITHMS
    )
    flow_transforms: int | None = option(None, "algorithm", "autoregressive transforms of sac-nf", kind=int, least=1)
    hidden: int = option(256, "algorithm", "width of the hidden layers", least=1)
    actor_layers: int = option(3, "algorithm", "hidden layers of the actor's network", least=1)
    critic_layers: int = option(2, "algorithm", "hidden layers of each critic", least=1)
    activation: str = option("elu", "algorithm", "activation between layers", tuple(FROM_VALUE))
    gamma: float = option(0.99, "algorithm", "discount factor", most=1)
    alpha: float = option(
        0.2, "algorithm", "temperature: reward per nat of entropy; its initial value if it is tuned", positive=True
    )
    alpha_rule: str = option(
        "fixed", "algorithm", "whether alpha stays fixed or is tuned to a target entropy", ("fixed", "tuned")
    )
    target_entropy: float | None = option(
        None, "algorithm", "tuned alpha: target in nats of the action (default: -D, as in SAC)", kind=float,
        least=-math.inf,
    )  # fmt: skip
    lr: float = option(1e-3, "algorithm", "learning rate of Adam", positive=True)
    batch: int = option(100, "algorithm", "transitions in the batch of an update", least=1)
    buffer: int = option(1_000_000, "algorithm", "capacity of the replay buffer, in transitions", least=1)
    polyak: float = option(0.995, "algorithm", "decay of the target critics' running average", most=1)
    random_steps: int = option(10_000, "algorithm", "steps with uniformly random actions at the start")
    update_after: int = option(1000, "algorithm", "steps before the first update", least=1)
    update_every: int = option(50, "algorithm", "steps between rounds of updates", least=1)
    updates: int = option(50, "algorithm", "updates in a round", least=1)

    preset: str | None = option(
        None, "stein policy",
        "a row of the published comparison, such as p-svgd or met-svgd-mh; it sets the defaults of the options below",
    )  # fmt: skip
    published: str | None = option(
        None,
        "stein policy",
        "whether the defaults are the published ELU, clamped start and step size 0.1",
        ("no", "yes"),
    )
    particles: int | None = _stein("particles per state, M", int)
    svgd_steps: int | None = _stein("SVGD steps, L", int)
    target: str | None = _stein("density that SVGD moves the particles to: s2ac or max-entropy")
    bandwidth: str | None = _stein("bandwidth sigma: learnt, or a heuristic", choices=("learnt", *HEURISTICS))
    bandwidth_start: float | None = _stein("learnt sigma before training", float)
    step: str | None = _stein("step size eps: learnt or fixed", choices=("learnt", "fixed"))
    step_size: float | None = _stein(
        "fixed eps, or learnt eps before training; by default 0.1 for each particle", float
    )
    start: str | None = _stein("how the start's sigma is held between 0.1 and 1: soft or clamp")
    bound: str | None = _stein("how eps is kept below its bound", choices=BOUNDS)
    hessian: str | None = _stein("how the trace of the target's Hessian is computed", choices=HESSIANS)
    density: str | None = _stein("change of log density: to first order in eps, or exact", choices=DENSITIES)
    divisor: str | None = _stein("divisor of the kernel sum in the trace", choices=DIVISORS)
    control: str | None = _stein("what may reject particles or steps", choices=CONTROLS)
    mh_iterations: int | None = _stein("most iterations of the inverse map in a Metropolis-Hastings step", int)
    mh_low: float | None = _stein("epsilon-greedy: probability of a Metropolis-Hastings step at the start", float)
    mh_high: float | None = _stein("epsilon-greedy: the same at the end", float)
    stop_threshold: float | None = _stein("stop a chain once its Stein discrepancy is below this; 0 disables it", float)
    patience: int | None = _stein("stop a chain after this many rises of its discrepancy; 0 disables it", int)
    test_action: str | None = option(
        None, "stein policy",
        "action in evaluations: of the particle with the largest Q, drawn by softmax over Q, or fixed: one action for "
        "a state, from fixed random numbers",
        metavar="best|softmax|fixed",
    )  # fmt: skip
    test_temperature: float | None = option(
        None, "stein policy", "temperature of this softmax, in units of return", kind=float, positive=True
    )

    steps: int = option(1_000_000, "run", "steps of the environment, a multiple of --update-every", least=1)
    seed: int = option(0, "run", "seed of all random numbers")
    threads: int = option(1, "run", "CPU threads; 0 uses as many as torch does by default", most=MOST_THREADS)
    device: str = device_option()
    graph: str = graph_option()
    amp: str = amp_option("actor and critics")
    eval_every: int = option(1000, "run", "steps between evaluations", least=1)
    eval_episodes: int = option(10, "run", "episodes in an evaluation", least=1)
    log_every: int = option(1000, "run", "steps between lines of metrics.jsonl", least=1)
    checkpoint_every: int = option(10_000, "run", "steps between checkpoints", least=1)
    keep_checkpoints: int = option(
        2, "run", "how many of the newest checkpoints to keep; each holds the replay buffer", least=1
    )

    @property
    def uncapturable(self) -> str | None:
        if self.algo != "stein":
            return f"Stable-Baselines3 makes those of --algo {self.algo}"
        if self.control == "epsilon-greedy":
            return "epsilon-greedy control decides on the host which steps it corrects"
        return None

    @classmethod
    def from_yaml(cls, path: Path) -> RLConfig:
        """Reads a config.yaml; in runs of versions without `start`, every start was clamped."""
        config = super().from_yaml(path)
        is_older = config.algo == "stein" and config.start is None
        return dataclasses.replace(config, start="clamp") if is_older else config

    @classmethod
    def defaults_for(cls, options: dict[str, Any]) -> dict[str, Any]:
        environment = ENVIRONMENTS.get(options.get("env", cls.env), {})
        defaults = environment | ALGORITHM_DEFAULTS.get(options.get("algo", cls.algo), {})
        if "preset" not in defaults:
            return defaults
        if options.get("published", "no") == "yes":
            return defaults | PUBLISHED
        if options.get("preset") == "p-svgd":
            defaults["activation"] = environment.get("activation", cls.activation)
        return defaults

    def validate(self) -> None:
        super().validate()
        for algo, names in ONLY.items():
            for name in names:
                if algo != self.algo and getattr(self, name) is not None:
                    raise UsageError(f"{flag(name)}: is only valid with --algo {algo}")
        if self.goals is not None and self.env != MULTIGOAL:
            raise UsageError(f"--goals: is only valid with --env {MULTIGOAL}")
        if self.target_entropy is not None and self.alpha_rule == "fixed":
            raise UsageError("--target-entropy: is only valid with --alpha-rule tuned")
        for name in ("steps", "eval_every", "log_every", "checkpoint_every"):
            value = getattr(self, name)
            if value % self.update_every:
                raise UsageError(
                    f"{flag(name)}: must be a multiple of --update-every = {self.update_every}, but is {value}"
                )

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Arguments of the environment's constructor."""
        return {} if self.goals is None else {"goals": self.goals}

    @property
    def label(self) -> str:
        """The name of the algorithm in a report: the preset of a Stein policy, otherwise `algo`."""
        return self.algo if self.preset is None else self.preset


# Many sampled actions, so that the shares of the goals can be estimated.
EVALUATION_DEFAULTS: dict[str, dict[str, Any]] = {MULTIGOAL: {"episodes": 200, "actions": "sampled"}}


@dataclass
class RLEvaluationSettings(Settings):
    """Settings of `svgdx eval rl`."""

    program = "eval rl"
    variants = EVALUATION_DEFAULTS

    episodes: int = option(10, "evaluation", "number of episodes", least=1)
    actions: str = option(
        "test", "evaluation", "actions as in the evaluations during training, or sampled from the policy",
        ("test", "sampled"),
    )  # fmt: skip
    seed: int = option(0, "evaluation", "seed of the episodes")
    threads: int = option(1, "evaluation", "CPU threads", least=1, most=MOST_THREADS)
    device: str = device_option("evaluation")

    @classmethod
    def for_environment(cls, env: str, options: dict[str, Any]) -> RLEvaluationSettings:
        """The options of the command line, and the environment's defaults for the rest.

        Raises UsageError if a value is not allowed.
        """
        return cls.from_options(EVALUATION_DEFAULTS.get(env, {}) | options)


assert all(
    name in {field.name for field in dataclasses.fields(RLConfig)}
    for changes in [*ENVIRONMENTS.values(), *ALGORITHM_DEFAULTS.values()]
    for name in changes
)
