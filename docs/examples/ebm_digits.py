"""An energy-based model of handwritten digits.

A log density f learns to be high on digits and low on samples of a short SVGD chain, whose start and steps learn to
follow f. The Fréchet distance in pixels from samples to held-out digits must fall.
"""

import argparse

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

from svgdx import SVGD
from svgdx.densities import MLPLogDensity
from svgdx.experiments.metrics.frechet import frechet_distance
from svgdx.samplers import RBF, Learnt, LearntGaussian

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="train less: a few seconds")
parser.add_argument("--out", default="ebm_digits.png", help="picture")
options = parser.parse_args()
torch.manual_seed(0)
STEPS, UPDATES, NOISE, PARTICLES = 8, 60 if options.quick else 2000, 0.3, 64
digits = 2 * torch.from_numpy(load_digits().data).float() / 16 - 1
train, held_out = digits[torch.randperm(len(digits))].split([1400, len(digits) - 1400])
log_density = MLPLogDensity(dim=64, hidden=256, depth=2)
start = LearntGaussian(train.mean(0), (train.var(0) + NOISE**2).sqrt())
sampler = SVGD(log_density, start, RBF(Learnt(1.0, STEPS)), Learnt(9.0, STEPS), bound="leaky", attach_every=4)
density_adam = torch.optim.Adam(log_density.parameters(), 3e-3 if options.quick else 1e-3, betas=(0.0, 0.999))
sampler_adam = torch.optim.Adam(sampler.parameters(), 1e-2, betas=(0.5, 0.9))


def draw(chains):
    with torch.no_grad():
        return sampler.sample(PARTICLES, STEPS, batch=(chains,)).flatten(0, 1)


before = draw(6)
for step in range(UPDATES):
    if step % 5 == 0:  # The sampler follows f, by the reverse KL divergence E[log q - f], a little behind it.
        log_density.requires_grad_(False)
        x, log_q = sampler.sample_with_log_prob(PARTICLES, STEPS)
        sampler_adam.zero_grad()
        (log_q - log_density(x)).mean().backward()
        sampler_adam.step()
        log_density.requires_grad_(True)
    # f rises on digits, with noise that falls, and sinks on samples; the penalty keeps it from running away.
    data = torch.normal(train[torch.randint(len(train), (PARTICLES,))], NOISE * 0.2 ** (step / UPDATES))
    f_samples, f_data = log_density(draw(1)), log_density(data)
    density_adam.zero_grad()
    (f_samples + 0.02 * f_samples.square() - f_data + 0.02 * f_data.square()).mean().backward()
    density_adam.step()
after = draw(6)
_, panels = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for panel, images, title in zip(panels, (before, after, held_out), ("untrained", "trained", "digits"), strict=True):
    panel.imshow(images[:64].reshape(8, 8, 8, 8).transpose(1, 2).reshape(64, 64).numpy(), cmap="gray", vmin=-1, vmax=1)
    panel.set(title=title, xticks=[], yticks=[])
plt.savefig(options.out, dpi=110)
distances = [frechet_distance(images, held_out) for images in (before, after, train)]
print("Fréchet distance to held-out digits: {:.1f} untrained, {:.1f} trained, {:.1f} digits".format(*distances))
