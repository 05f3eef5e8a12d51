"""`svgdx sample`: runs a sampler on a target with a known answer and draws what it finds."""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor

from svgdx.experiments.run.checkpoint import write_atomically
from svgdx.experiments.run.errors import DivergedError
from svgdx.experiments.run.folder import RunFolder, with_threads
from svgdx.experiments.run.loop import stream
from svgdx.experiments.run.settings import chosen_options
from svgdx.experiments.toys import plots, targets
from svgdx.experiments.toys.config import SampleConfig
from svgdx.samplers import RBF, SVGD, Chain, Learnt, LearntGaussian, Scheduled, SteinStop, preset

_TRAIN, _SAMPLE = 0, 1


def sampler_of(config: SampleConfig, toy: targets.Toy) -> SVGD:
    """The preset with the settings that the command gives in its place."""
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


def main(options: argparse.Namespace) -> int:
    """Runs `svgdx sample` and returns its exit code."""
    config = with_threads(SampleConfig.from_options(chosen_options(options, SampleConfig)))
    toy = targets.load(config.target)
    return run(config, toy, RunFolder.create(options.out, config.to_yaml(), "sample"), options.quiet)


def run(config: SampleConfig, toy: targets.Toy, folder: RunFolder, quiet: bool = False) -> int:
    """Trains where the preset learns, samples, and writes result.json, sample.png and evolution.gif."""
    torch.set_num_threads(config.threads)
    sampler = sampler_of(config, toy)
    truth = targets.truth(toy)
    losses = train(sampler, config, folder, quiet)
    chain, path, entropies = follow(sampler, config)
    with torch.no_grad():
        many = sampler.run(config.particles, config.steps, batch=(config.chains,), generator=_stream(config, _SAMPLE))
    found = many.entropy()
    kept = 1.0 if many.mask is None else many.mask.float().mean().item()
    if many.mask is not None and not bool(many.mask.any(-1).all()):
        raise DivergedError(f"sampling: truncation left a chain without particles; --eps {config.eps:g} is too large")
    if not bool(found.isfinite().all()):
        raise DivergedError(f"sampling: the entropy is {found.tolist()}")
    error = found.std().item() / config.chains**0.5 if config.chains > 1 else float("nan")
    history = {name: value.float().tolist() for name, value in chain.history().items()}
    result = {
        "target": config.target, "preset": config.preset, "entropy": found.mean().item(), "entropy_error": error,
        "truth": truth._asdict(), "kept": kept, "length": many.length.double().mean().item(), "losses": losses,
        "largest_norm": many.x.norm(dim=-1).max().item(), "mean": many.x.flatten(0, 1).mean(0).tolist(),
        "variance": many.x.flatten(0, 1).var(0).tolist(), "steps": history, "entropies": entropies,
    }  # fmt: skip
    write_atomically(folder.path / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    plots.picture(folder.path / "sample.png", toy, chain, entropies, truth)
    if config.frames:
        plots.evolution(folder.path / "evolution.gif", toy, path, config.frames)
    print(
        f"{config.target}, {config.preset}: entropy {found.mean():.3f} ± {error:.3f} nats over {config.chains} chains"
    )
    if kept < 1:
        print(f"Truncation kept {kept:.1%} of the particles; the entropy is theirs")
    print(f"truth {truth.entropy:.3f} ± {truth.error:.3f} ({truth.method}); {result['length']:.1f} steps")
    print(f"Pictures: {folder.path / 'sample.png'}")
    return 0


def train(sampler: SVGD, config: SampleConfig, folder: RunFolder, quiet: bool) -> list[float]:
    """Reverse KL of each epoch; metrics.jsonl gets a line for each."""
    if config.epochs == 0:
        return []
    from tqdm import tqdm

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
                scheduler=lambda made: torch.optim.lr_scheduler.CosineAnnealingLR(made, config.epochs),
                batch=(config.batch,),
                generator=_stream(config, _TRAIN),
                callback=log,
            )
        except FloatingPointError as error:
            raise DivergedError(str(error)) from error


def follow(sampler: SVGD, config: SampleConfig) -> tuple[Chain, list[Tensor], list[float]]:
    """One chain, its particles at the start and after each step, and its entropy along the way."""
    path: list[Tensor] = []
    entropies: list[float] = []
    with torch.no_grad():
        start = sampler.run(config.particles, 0, generator=_stream(config, _SAMPLE))
        path.append(start.x)
        entropies.append(start.entropy().item())
        sampler.callbacks.append(lambda state: path.append(state.x))
        sampler.callbacks.append(
            lambda state: entropies.append(Chain(state.x, state.log_q, state.mask, start.length).entropy().item())
        )
        chain = sampler.run(config.particles, config.steps, generator=_stream(config, _SAMPLE))
        del sampler.callbacks[-2:]
    return chain, path, entropies


def _stream(config: SampleConfig, purpose: int) -> torch.Generator:
    return stream(config.seed, 0, purpose)
