"""`svgdx report` for runs of `svgdx train ebm`: a table, figures, and the order of the published comparison."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

from svgdx.experiments.data.points import POINT_SETS
from svgdx.experiments.ebm import plots
from svgdx.experiments.ebm.points import report as points_report
from svgdx.experiments.ebm.runs import (
    DISTANCE_FACTOR,
    GRADIENT_FACTOR,
    EBMRun,
    Groups,
    distance_of,
    folder_name,
    grouped,
)
from svgdx.experiments.metrics.calibration import SCALES
from svgdx.experiments.run.checkpoint import write_atomically
from svgdx.experiments.run.report import make_folder, spread, table

# FID on CIFAR-10 of the best iteration, mean of 5 seeds, and the configurations that diverge, read off the plots of
# Messaoud et al., Particles Don't Care About Z, ICML 2026. Values closer than READING count as equal.
PUBLISHED_FID = {"langevin": 34.0, "p-svgd": 114.0, "met-svgd-sigma": 34.0, "met-svgd": 23.0, "met-svgd-lc": 22.9}
PUBLISHED_DIVERGED = ("met-svgd-no-trace", "met-svgd-no-bound", "met-svgd-mh")
READING = 1.0

_EXPLAINED = {
    "feature_distance": "`feature_distance` is the Fréchet distance in the features of a small classifier that is "
    "trained on the same data with a fixed seed. It is not FID and is comparable only within this table.",
    "fid": "FID is measured by torch-fidelity.",
}


def run(paths: list[Path], out: Path) -> int:
    """Writes report.md, figures.png and samples.png into a folder, which is created if necessary. Returns 0.

    Args:
        paths: run folders of one data set, finished or diverged; or of points, whose report covers several data sets
            and has densities.png in place of samples.png.
        out: the folder.

    Raises:
        UsageError: a folder holds no run, a run has not ended, the runs are of several data sets, or two runs of a
            configuration differ in more than their seeds.
    """
    runs = [EBMRun(path) for path in paths]
    if all(run.config.data in POINT_SETS for run in runs):
        points_report.write(runs, out)
        return 0
    groups = grouped(runs)
    make_folder(out)
    plots.figures(out / "figures.png", groups)
    plots.sample_sheet(out / "samples.png", groups)
    write_atomically(out / "report.md", text(groups).encode())
    print(f"{out / 'report.md'}, {out / 'figures.png'}, {out / 'samples.png'}")
    return 0


def text(groups: Groups) -> str:
    """The report as Markdown."""
    distance = distance_of(groups)
    updates = sorted({run.config.steps for seeds in groups.values() for run in seeds})
    first = next(iter(groups.values()))[0].config
    lines = [
        f"# Energy-based models of {first.data}",
        "",
        f"{', '.join(map(str, updates))} updates of {first.batch * first.particles} samples each; mean ± standard "
        "deviation over seeds. Distances are to held-out images; `best` is the smallest over the evaluations of a run. "
        "A row samples p^(1/T), and rows compare at equal T. " + _EXPLAINED[distance],
        "",
        *_distances(groups, distance),
        "",
        "A run has diverged at the first step with a number that is not finite; a gradient of the sampler, before "
        f"clipping, above {GRADIENT_FACTOR:g} times its running median; a distance above {DISTANCE_FACTOR:g} times its "
        "best so far; or a claimed entropy more than one nat per dimension above its bound.",
        "",
        "## What sampler and energy claim",
        "",
        "In nats, at the last evaluation. No density with the covariance C of the samples has more entropy than "
        "½ log det(2πe C). f is compared with denoising scores at held-out images with noise s: ∇f times `fit` is the "
        "best fit to them, `cosine` the cosine with them. An f whose `fit` is 1 is a log density of these images.",
        "",
        *_claims(groups),
        "",
        "![Quantities of training](figures.png)",
        "![Samples](samples.png)",
        "",
        "## Compared with the paper",
        "",
        *compared_with_paper(groups, distance),
        "",
        "## Commands",
        "",
        *(f"    {command}" for command in commands(groups)),
    ]
    return "\n".join(lines) + "\n"


def _distances(groups: Groups, distance: str) -> list[str]:
    """The table of distances and of how the runs went."""
    head = ["configuration", "T", "seeds", "diverged at step", f"{distance}, best", "last", "pixel_distance, last"]
    head += [
        "steps per chain",
        "MH rejection",
        "largest gradient of the sampler",
        "steps past eps_UB",
        "seconds per run",
    ]
    rows = []
    for name, runs in groups.items():
        diverged = [sign for run in runs if (sign := run.divergence(distance))]
        rows.append([
            name,
            f"{runs[0].config.temperature:g}",
            str(len(runs)),
            ", ".join(f"{step} ({rule})" for step, rule in diverged) or "none",
            spread([run.best(distance) for run in runs]),
            spread([run.last(distance) for run in runs]),
            spread([run.last("pixel_distance") for run in runs]),
            spread([run.last("steps") for run in runs], 1),
            spread([run.last("mh_rejection") for run in runs]),
            spread([run.largest("sampler_gradient") for run in runs], 1),
            spread([run.average("past_bound") for run in runs]),
            spread([run.seconds for run in runs], 0),
        ])  # fmt: skip
    return table(head, rows)


def _claims(groups: Groups) -> list[str]:
    """The table of the sampler's entropy and of the energy's scores."""
    digits = {"claimed_entropy": 1, "entropy_bound": 1}
    digits |= {f"{name}_{scale}": places for scale in SCALES for name, places in (("fit", 2), ("cosine", 3))}
    digits |= {"score_norm": 2, "data_score_norm": 2, "data_hvp_norm": 2}
    head = ["configuration", "entropy claimed", "its bound"]
    head += [f"{name}, s = {scale}" for scale in SCALES for name in ("fit", "cosine")]
    head += ["norm of grad f at samples", "at held-out images", "norm of H v there"]
    rows = [
        [name, *(spread([run.last(quantity) for run in runs], places) for quantity, places in digits.items())]
        for name, runs in groups.items()
    ]
    return table(head, rows)


def commands(groups: Groups) -> list[str]:
    """The commands that repeat all runs and the report, for a shell."""
    lines, folders = [], []
    for name, runs in groups.items():
        seeds = [str(run.config.seed) for run in runs]
        command = runs[0].config.command(without=("seed", "threads"))
        folder = folder_name(name)
        lines.append(f"for seed in {' '.join(seeds)}; do {command} --seed $seed --out {folder}-$seed; done")
        folders += [f"{folder}-{seed}" for seed in seeds]
    return [*lines, f"svgdx report {' '.join(folders)} --out report"]


def compared_with_paper(groups: Groups, distance: str) -> list[str]:
    """Lists the pairs of configurations that are in the published order and those that are not, and who diverges."""
    best = {}
    for name in PUBLISHED_FID:
        values = [value for run in groups.get(name, []) if (value := run.best(distance)) is not None]
        if values:
            best[name] = (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
    verdicts: dict[str, list[str]] = {
        "reproduced": [],
        "not reproduced": [],
        "not distinguishable with these seeds": [],
    }
    for pair in itertools.combinations(best, 2):
        better, worse = sorted(pair, key=lambda name: PUBLISHED_FID[name])
        if PUBLISHED_FID[worse] - PUBLISHED_FID[better] >= READING:
            verdict = _verdict(best[better], best[worse])
            verdicts[verdict].append(f"{better} ({best[better][0]:.1f}) before {worse} ({best[worse][0]:.1f})")
    lines = ["Order of the best distances, compared with FID on CIFAR-10 as read off the paper's plots:", ""]
    lines += [f"- {verdict}: {'; '.join(pairs) or 'no pair'}" for verdict, pairs in verdicts.items()]
    for name in PUBLISHED_DIVERGED:
        runs = groups.get(name, [])
        if runs:
            lines.append(
                f"- {name}, which diverges in the paper: of {len(runs)} runs here, "
                f"{sum(run.divergence(distance) is not None for run in runs)} diverged"
            )
    return lines


def _verdict(better: tuple[float, float], worse: tuple[float, float]) -> str:
    """Compares two (mean, standard deviation); they are distinguishable if further apart than both deviations."""
    if abs(better[0] - worse[0]) <= better[1] + worse[1]:
        return "not distinguishable with these seeds"
    return "reproduced" if better[0] < worse[0] else "not reproduced"
