"""EB-GFN on two spirals.

An energy over 32 bits, which encode a point of the plane, and a GFlowNet that samples from it are trained together.
Samples of the GFlowNet, decoded to points, must look like the data; their distance to it is the energy distance.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch

from svgdx import gflownets
from svgdx.densities import DiscreteMLPEnergy
from svgdx.experiments.data.plane import BITS, Quantizer, sample_2d

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="train less: a few seconds")
parser.add_argument("--out", default="eb_gfn_2d.png", help="picture")
options = parser.parse_args()
torch.manual_seed(0)
rng, quantizer, BATCH, RATE = np.random.default_rng(0), Quantizer("2spirals"), 64, 8e-3 if options.quick else 1e-3
energy, policy = DiscreteMLPEnergy(BITS, hidden=128), gflownets.MLPPolicy(BITS, hidden=128)
log_z = torch.zeros((), requires_grad=True)
energy_adam = torch.optim.Adam(energy.parameters(), RATE)
policy_adam = torch.optim.Adam([{"params": policy.parameters(), "lr": RATE}, {"params": [log_z], "lr": 100 * RATE}])


def draw(count, seed):
    void = gflownets.void_states(count, BITS)
    return quantizer.decode(gflownets.rollout(policy, BITS, seed, forward_from=void).final)


def energy_distance(x, y):
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    return (2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()).item()


held_out, before, void = sample_2d("2spirals", 1000, rng), draw(1000, seed=0), gflownets.void_states(BATCH, BITS)
for step in range(35 if options.quick else 1500):
    data = quantizer.encode(sample_2d("2spirals", BATCH, rng))
    # The GFlowNet learns the reward exp(-E) on trajectories of its own and on trajectories that end in the data.
    paths = gflownets.rollout(policy, BITS, seed=step, forward_from=void, backward_from=data, record=True)
    log_pf, log_pb = gflownets.trajectory_log_prob(policy, paths)
    policy_adam.zero_grad()
    gflownets.trajectory_balance(log_pf, log_pb, -energy(paths.final).detach(), log_z).mean().backward()
    policy_adam.step()
    # The energy learns by contrast with the GFlowNet's samples: back_and_forth erases all bits and draws them again.
    samples = gflownets.back_and_forth(policy, data, steps=BITS, seed=step).x_new
    energy_adam.zero_grad()
    (energy(data).mean() - energy(samples).mean()).backward()
    energy_adam.step()
after = draw(1000, seed=1)
_, panels = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained", sharex=True, sharey=True)
for panel, points, title in zip(panels, (before, after, held_out), ("untrained", "trained", "data"), strict=True):
    panel.plot(*points.T, ".", markersize=1.5)
    panel.set(title=title, aspect="equal")
plt.savefig(options.out, dpi=110)
distances = [energy_distance(points, held_out) for points in (before, after, sample_2d("2spirals", 1000, rng))]
print("energy distance to held-out points: {:.3f} untrained, {:.3f} trained, {:.3f} other data".format(*distances))
