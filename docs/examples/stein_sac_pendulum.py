"""SteinSAC on Pendulum.

The policy's actions are SVGD particles of exp(Q / alpha), whose density, and so the entropy, is known. Everything else
is Stable-Baselines3. An episode returns about -1200 with random actions, and about -150 if the pendulum stays upright.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch
from stable_baselines3.common.env_util import make_vec_env

from svgdx.rl import SteinSAC

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="250 steps: a few seconds, and not yet a good policy")
parser.add_argument("--out", default="stein_sac_pendulum.png", help="picture")
options = parser.parse_args()
STEPS, EPISODE = 250 if options.quick else 3000, 200

model = SteinSAC(
    "MlpPolicy",
    "Pendulum-v1",
    preset="met-svgd",
    learning_rate=2e-3,
    learning_starts=EPISODE,
    train_freq=10,
    gradient_steps=1 if options.quick else 5,
    policy_kwargs={"net_arch": {"pi": [64, 64], "qf": [256, 256]}, "activation_fn": torch.nn.Softplus},
    seed=0,
    device="cpu",
)
model.learn(STEPS)
training_returns = [episode["r"] for episode in model.ep_info_buffer]

environments = make_vec_env("Pendulum-v1", n_envs=5, seed=1)
observations, heights, returns = environments.reset(), [], np.zeros(5)
for _ in range(EPISODE):
    actions, _ = model.predict(observations, deterministic=True)
    heights.append(observations[:, 0])
    observations, rewards, _, _ = environments.step(actions)
    returns += rewards

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot(EPISODE * np.arange(1, len(training_returns) + 1), training_returns, ".-")
left.axhline(-150, color="k", linestyle="--", linewidth=1, label="stays upright")
left.set(xlabel="steps", ylabel="return of an episode", title="Training; the first episode is random")
left.legend()
right.plot(heights, linewidth=0.8)
right.set(xlabel="step of an episode", ylabel="height, 1 is upright", title="Five episodes after training")
figure.savefig(options.out, dpi=110)
print(
    f"mean return of five episodes after {STEPS} steps {returns.mean():.0f} (from {returns.min():.0f} to "
    f"{returns.max():.0f}); {training_returns[0]:.0f} with random actions, about -150 upright"
)
