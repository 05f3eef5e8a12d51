"""A GFlowNet for a reward of one's own.

The reward of a vector of bits grows with its number of 1-0 borders. A GFlowNet learns to draw vectors in proportion to
their reward. There are only 2^D of them here, so its distribution can be compared with the exact one.
"""

import argparse

import matplotlib.pyplot as plt
import torch

from svgdx import gflownets

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="train less: a few seconds")
parser.add_argument("--out", default="own_gflownet.png", help="picture")
options = parser.parse_args()
torch.manual_seed(0)
DIM, BATCH = 6, 64


def log_reward(x):
    """log R of complete states: (..., D) of 0 and 1 -> (...)."""
    return 0.8 * (x[..., 1:] != x[..., :-1]).float().sum(-1)


policy = gflownets.MLPPolicy(DIM, hidden=64, depth=2)
log_z = torch.zeros((), requires_grad=True)
adam = torch.optim.Adam([{"params": policy.parameters(), "lr": 1e-2}, {"params": [log_z], "lr": 0.3}])
void = gflownets.void_states(BATCH, DIM)
losses = []
for step in range(250 if options.quick else 3000):
    paths = gflownets.rollout(policy, DIM, seed=step, forward_from=void, epsilon=0.05, record=True)
    log_pf, log_pb = gflownets.trajectory_log_prob(policy, paths)
    loss = gflownets.trajectory_balance(log_pf, log_pb, log_reward(paths.final), log_z).mean()
    adam.zero_grad()
    loss.backward()
    adam.step()
    losses.append(loss.item())

states = ((torch.arange(2**DIM)[:, None] >> torch.arange(DIM)) & 1).to(torch.int8)
exact = log_reward(states).softmax(0)
learnt = gflownets.log_likelihood(policy, states, samples=50, seed=0).exp()
distance = 0.5 * (learnt - exact).abs().sum()
true_log_z = log_reward(states).logsumexp(0)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.semilogy(losses, color="tab:blue", linewidth=0.8)
left.set(xlabel="update", ylabel="trajectory balance", title="Training")
order = exact.argsort(descending=True)
right.plot(learnt[order], color="crimson", linewidth=0.8, label="GFlowNet")
right.plot(exact[order], "k", linewidth=1.5, label="exact")
right.set(xlabel=f"the {2**DIM} vectors, the most probable first", ylabel="probability", title="Distribution")
right.legend()
figure.savefig(options.out, dpi=110)
print(f"total variation {distance:.3f} of at most 1; log Z {log_z.item():.2f}, truth {true_log_z:.2f}")
