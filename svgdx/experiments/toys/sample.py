"""`svgdx sample`: runs a sampler on a target whose entropy is known, and compares."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from svgdx.experiments.run.checkpoint import write_atomically
from svgdx.experiments.run.compute.device import torch_device
from svgdx.experiments.run.errors import DivergedError
from svgdx.experiments.run.folder import RunFolder, localised
from svgdx.experiments.run.loop import stream
from svgdx.experiments.run.settings import chosen_options
from svgdx.experiments.toys import plots
from svgdx.experiments.toys.config import SampleConfig
from svgdx.experiments.toys.targets import Toy, Truth, load_toy, truth_of
from svgdx.samplers import RBF, SVGD, Chain, Learnt, LearntGaussian, Scheduled, SteinStop, preset
from svgdx.streams import Stream

# Purposes of random numbers.
_TRAIN, _SAMPLE = 0, 1


def main(options: argparse.Namespace) -> int:
    """Runs `svgdx sample` and returns its exit code."""
    config = localised(SampleConfig.from_options(chosen_options(options, SampleConfig)))
    # Before the folder is made, so that a refused run leaves none.
    toy = load_toy(config.target)
    folder = RunFolder.create(options.out, config.to_yaml(), "sample")
    with folder.at_work():
        return run(config, toy, folder, options.quiet)


def sampler_of(config: SampleConfig, toy: Toy) -> SVGD:
    """The sampler of the preset, changed by the other settings."""
    changes: dict[str, object] = {
        "bound": config.bound, "hessian": config.hessian, "density": config.density, "control": config.control,
        "attach_every": config.attach_every, "stop": SteinStop(config.stop) if config.stop > 0 else None,
    }  # fmt: skip
    learns = config.preset == "met-svgd"
    eps: float | Learnt | Scheduled = Learnt(config.eps, config.steps) if learns else config.eps
    if config.decay_from:
        eps = Scheduled(eps, "exponential", end=config.steps, begin=config.decay_from)
    changes["step_size"] = eps
    if learns:
        low, high = (config.sigma_low, config.sigma_high) if config.sigma_high else (None, None)
        changes["kernel"] = RBF(Learnt(config.sigma, config.steps, low, high))
    elif config.sigma > 0:
        changes["kernel"] = RBF(config.sigma)
    initial = LearntGaussian(toy.mean, toy.std)
    if not learns:
        initial.requires_grad_(False)
    return preset(config.preset, toy.target, initial, config.steps, **changes)


def run(config: SampleConfig, toy: Toy, folder: RunFolder, quiet: bool = False) -> int:
    """Trains the sampler if it learns, draws samples, and writes result.json, sample.png and evolution.gif.

    Raises DivergedError if a loss or an entropy is not finite, or if truncation leaves a chain without particles.
    """
    torch.set_num_threads(config.threads)
    device = torch_device(config.device)
    # The one on the CPU is for pictures and the true entropy.
    sampler = sampler_of(config, load_toy(config.target, device)).to(device)
    truth = truth_of(toy)
    losses = train(sampler, config, folder, quiet)
    chain, positions, entropies = follow(sampler, config)
    with torch.no_grad():
        final = sampler.run(config.particles, config.steps, batch=(config.chains,), generator=_stream(config, _SAMPLE))
    result = _result(config, final, truth) | {"losses": losses, "entropies": entropies}
    result["steps"] = {name: value.float().tolist() for name, value in chain.history().items()}
    write_atomically(folder.path / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    plots.picture(folder.path / "sample.png", toy, chain, entropies, truth)
    if config.frames:
        plots.evolution(folder.path / "evolution.gif", toy, positions, config.frames)
    _print(config, result, truth, folder)
    return 0


def _result(config: SampleConfig, final: Chain, truth: Truth) -> dict[str, Any]:
    """What result.json says about the final chains. Raises DivergedError if they have no finite entropy."""
    if final.mask is not None and not bool(final.mask.any(-1).all()):
        raise DivergedError(f"sampling: truncation left a chain without particles; --eps {config.eps:g} is too large")
    entropy = final.entropy()
    if not bool(entropy.isfinite().all()):
        raise DivergedError(f"sampling: the entropy is {entropy.tolist()}")
    return {
        "target": config.target,
        "preset": config.preset,
        "entropy": entropy.mean().item(),
        "entropy_error": entropy.std().item() / config.chains**0.5 if config.chains > 1 else float("nan"),
        "truth": truth._asdict(),
        "kept": 1.0 if final.mask is None else final.mask.float().mean().item(),
        "length": final.length.double().mean().item(),
        "largest_norm": final.x.norm(dim=-1).max().item(),
        "mean": final.x.flatten(0, 1).mean(0).tolist(),
        "variance": final.x.flatten(0, 1).var(0).tolist(),
    }


def _print(config: SampleConfig, result: dict[str, Any], truth: Truth, folder: RunFolder) -> None:
    entropy = f"entropy {result['entropy']:.3f} ± {result['entropy_error']:.3f} nats over {config.chains} chains"
    print(f"{config.target}, {config.preset}: {entropy} of {result['length']:.1f} steps")
    if result["kept"] < 1:
        print(f"Truncation kept {result['kept']:.1%} of the particles; the entropy is that of the particles kept")
    print(f"True entropy: {truth.entropy:.3f} ± {truth.error:.3f} ({truth.method})")
    print(f"Pictures: {folder.path / 'sample.png'}")


def train(sampler: SVGD, config: SampleConfig, folder: RunFolder, quiet: bool) -> list[float]:
    """Trains the sampler for `epochs` updates and writes a line of metrics.jsonl after each.

    Returns:
        The reverse KL divergence of each epoch, in nats up to a constant.

    Raises:
        DivergedError: a loss or a gradient is not finite.
    """
    if config.epochs == 0:
        return []
    with tqdm(total=config.epochs, unit="epoch", disable=quiet) as bar:

        def log(epoch: int, loss: float, chain: Chain) -> None:
            entropy = chain.entropy().mean().item()
            folder.append_metrics({"epoch": epoch, "loss": loss, "entropy": entropy})
            bar.set_postfix_str(f"entropy={entropy:.3f}")
            bar.update()

        try:
            return sampler.fit(
                config.particles,
                config.steps,
                config.epochs,
                optimizer=lambda parameters: torch.optim.Adam(parameters, config.lr),
                scheduler=lambda adam: torch.optim.lr_scheduler.CosineAnnealingLR(adam, config.epochs),
                batch=(config.batch,),
                generator=_stream(config, _TRAIN),
                callback=log,
            )
        except FloatingPointError as error:
            raise DivergedError(str(error)) from error


def follow(sampler: SVGD, config: SampleConfig) -> tuple[Chain, list[Tensor], list[float]]:
    """One chain with its particles (M, D) and its entropy, in nats, at the start and after every step."""
    positions: list[Tensor] = []
    entropies: list[float] = []
    with torch.no_grad():
        start = sampler.run(config.particles, 0, generator=_stream(config, _SAMPLE))
        positions.append(start.x.cpu())
        entropies.append(start.entropy().item())
        sampler.callbacks.append(lambda state: positions.append(state.x.cpu()))
        sampler.callbacks.append(
            lambda state: entropies.append(Chain(state.x, state.log_q, state.mask, start.length).entropy().item())
        )
        chain = sampler.run(config.particles, config.steps, generator=_stream(config, _SAMPLE))
        del sampler.callbacks[-2:]
    return chain, positions, entropies


def _stream(config: SampleConfig, purpose: int) -> Stream:
    return stream(config.seed, 0, purpose, device=torch_device(config.device))
