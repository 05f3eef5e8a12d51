"""Densities learnt without samples.

Three losses train the same network on a pinwheel, each without a sampler and without the normaliser. A sum over a grid
then gives the normaliser, and the log-likelihood of held-out points must exceed that of the best Gaussian.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch

from svgdx import losses
from svgdx.densities import MLPLogDensity
from svgdx.experiments.data.plane import sample_2d

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="train less: a few seconds")
parser.add_argument("--out", default="score_matching.png", help="picture")
options = parser.parse_args()
rng, UPDATES, BATCH, NOISE, WIDTH = np.random.default_rng(0), 400 if options.quick else 4000, 256, 0.15, 6.0
data, held_out = (torch.from_numpy(sample_2d("pinwheel", count, rng)).float() for count in (20000, 2000))
ticks = torch.linspace(-WIDTH, WIDTH, 241)
grid = torch.cartesian_prod(ticks, ticks)
LOSSES = {
    # The second derivatives of data that lie on lines are not finite: noise makes their density smooth.
    "score matching": lambda f, x: losses.score_matching(f, x + NOISE * torch.randn_like(x)),
    "denoising": lambda f, x: losses.denoising_score_matching(f, x, NOISE),
    "energy discrepancy": lambda f, x: losses.energy_discrepancy(f, x, noise=0.5),
}


def trained(loss):
    torch.manual_seed(0)
    density = MLPLogDensity(dim=2, hidden=64, depth=3, confinement=0.1)
    adam = torch.optim.Adam(density.parameters(), 3e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, UPDATES)
    for _ in range(UPDATES):
        adam.zero_grad()
        loss(density, data[torch.randint(len(data), (BATCH,))]).backward()
        adam.step()
        rate.step()
    return density


results = []
_, panels = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained", sharex=True, sharey=True)
for panel, (name, loss) in zip(panels, LOSSES.items(), strict=False):
    density = trained(loss)
    with torch.no_grad():
        on_grid = density(grid)
        log_z = on_grid.logsumexp(0) + 2 * torch.log(ticks[1] - ticks[0])
        results.append(f"{name} {(density(held_out) - log_z).mean().item():.3f}")
    panel.imshow(on_grid.sub(log_z).exp().view(241, 241).T, origin="lower", extent=(-WIDTH, WIDTH, -WIDTH, WIDTH))
    panel.set_title(name)
panels[3].plot(*held_out.T, ".", markersize=1.5)
panels[3].set(title="data", aspect="equal")
plt.savefig(options.out, dpi=110)
gaussian = torch.distributions.MultivariateNormal(data.mean(0), data.T.cov()).log_prob(held_out).mean().item()
print(f"log-likelihood of held-out points, nats: {', '.join(results)}, best Gaussian {gaussian:.3f}")
