"""`svgdx report`: a table and figures from run folders of `svgdx train ebm`; those of `rl` go to rl_report."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from pathlib import Path

from svgdx.experiments.ebm import report_plots
from svgdx.experiments.ebm.config import CONFIGURATIONS, EBMConfig
from svgdx.experiments.run.checkpoint import write_atomically
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.report import Run, check_same, make_folder, spread

# FID on CIFAR-10 of the best iteration, mean of 5 seeds, and who diverges: read off the plots of Messaoud et al.,
# Particles Don't Care About Z, ICML 2026. What lies closer together than READING is taken as the same.
PUBLISHED_FID = {"langevin": 34.0, "p-svgd": 114.0, "met-svgd-sigma": 34.0, "met-svgd": 23.0, "met-svgd-lc": 22.9}
PUBLISHED_DIVERGED = ("met-svgd-no-trace", "met-svgd-no-bound", "met-svgd-mh")
READING = 1.0


class EBMRun(Run):
    """A run of `svgdx train ebm` that has ended.

    Attributes:
        seconds: of all updates, as its newest checkpoint tells; evaluations are not in it.

    Raises UsageError for one that has not ended.
    """

    def __init__(self, path: Path) -> None:
        folder = RunFolder.reopen(path)
        super().__init__(folder, EBMConfig.from_yaml(folder.config))
        if not self.diverged and self.step < self.config.steps:
            raise UsageError(f"{path}: has not ended: step {self.step} of {self.config.steps}")
        found = folder.load(None)
        self.seconds = found[1].seconds if found else 0.0

    def best(self, name: str) -> float | None:
        return min((value for _, value in self.values(name)), default=None)


def run(paths: list[Path], out: Path) -> int:
    """Writes report.md and its pictures into a folder, which is made where there is none.

    Raises UsageError for a folder without a run, a run that has not ended, runs of different data, and seeds of one
    configuration whose other settings differ.
    """
    groups = grouped([EBMRun(path) for path in paths])
    make_folder(out)
    report_plots.figures(out / "figures.png", groups)
    report_plots.sample_sheet(out / "samples.png", groups)
    write_atomically(out / "report.md", text(groups).encode())
    print(f"{out / 'report.md'}, {out / 'figures.png'}, {out / 'samples.png'}")
    return 0


def grouped(runs: list[EBMRun]) -> dict[str, list[EBMRun]]:
    """Runs by configuration, in the order of the paper's rows, seeds in order."""
    data = {run.config.data for run in runs}
    if len(data) > 1:
        raise UsageError(f"runs of one data set are compared, but these are of {', '.join(sorted(data))}")
    groups: dict[str, list[EBMRun]] = {}
    for name in CONFIGURATIONS:
        found = sorted((run for run in runs if run.config.config == name), key=lambda run: run.config.seed)
        for one, other in itertools.pairwise(found):
            check_same(one, other)
        if found:
            groups[name] = found
    return groups


def distance_of(groups: dict[str, list[EBMRun]]) -> str:
    """The distance that is compared: FID where every run has it, else that in the features of a classifier."""
    runs = [run for found in groups.values() for run in found]
    return "fid" if all(run.values("fid") for run in runs) else "feature_distance"


def text(groups: dict[str, list[EBMRun]]) -> str:
    """The report as Markdown."""
    distance = distance_of(groups)
    columns = {"best": f"{distance}, best", "last": "last", "pixel": "pixel_distance, last", "score": "norm of grad f"}
    columns |= {"entropy": "entropy", "steps": "steps a chain", "mh": "MH rejection", "seconds": "seconds a run"}
    rows = []
    for name, runs in groups.items():
        cells = {
            "best": spread([run.best(distance) for run in runs]),
            "last": spread([run.last(distance) for run in runs]),
            "pixel": spread([run.last("pixel_distance") for run in runs]),
            "score": spread([run.last("score_norm") for run in runs]),
            "entropy": spread([run.last("entropy") for run in runs], 1),
            "steps": spread([run.last("steps") for run in runs], 1),
            "mh": spread([run.last("mh_rejection") for run in runs]),
            "seconds": spread([run.seconds for run in runs], 0),
        }
        rows.append([name, str(len(runs)), _diverged(runs), *(cells[key] for key in columns)])
    head = ["configuration", "seeds", "diverged at step", *columns.values()]
    updates = sorted({run.config.steps for runs in groups.values() for run in runs})
    first = next(iter(groups.values()))[0].config
    lines = [
        f"# Energy-based models of {first.data}",
        "",
        f"{', '.join(map(str, updates))} updates of {first.batch * first.particles} samples each; mean ± standard "
        "deviation over seeds. Distances are to held-out images, `best` over the evaluations of a run. "
        + _EXPLAINED[distance],
        "",
        *("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]),
        "",
        "![Quantities of training](figures.png)",
        "![Samples](samples.png)",
        "",
        "## Beside the paper",
        "",
        *beside_paper(groups, distance),
        "",
        "## Commands",
        "",
        *(
            f"    {runs[0].config.command(without=('seed', 'threads'))} --out RUN   # --seed {_seeds(runs)}"
            for runs in groups.values()
        ),
        "    svgdx report RUN... --out FOLDER",
    ]
    return "\n".join(lines) + "\n"


_EXPLAINED = {
    "feature_distance": "`feature_distance` is the Fréchet distance in the features of a small classifier trained on "
    "the same data with a fixed seed: it is not FID and is comparable within this table only.",
    "fid": "FID by torch-fidelity.",
}


def _seeds(runs: list[EBMRun]) -> str:
    return ", ".join(str(run.config.seed) for run in runs)


def _diverged(runs: list[EBMRun]) -> str:
    ended = [str(run.diverged[0]) for run in runs if run.diverged]
    return ", ".join(ended) if ended else "none"


def beside_paper(groups: dict[str, list[EBMRun]], distance: str) -> list[str]:
    """Which pairs stand in the order of the paper's figures and which do not; and who diverges."""
    found = {}
    for name in PUBLISHED_FID:
        values = [value for run in groups.get(name, []) if (value := run.best(distance)) is not None]
        if values:
            found[name] = (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
    verdicts: dict[str, list[str]] = {"reproduced": [], "not reproduced": [], "not told apart by these seeds": []}
    for pair in itertools.combinations(found, 2):
        better, worse = sorted(pair, key=lambda name: PUBLISHED_FID[name])
        if PUBLISHED_FID[worse] - PUBLISHED_FID[better] >= READING:
            verdict = _verdict(found[better], found[worse])
            verdicts[verdict].append(f"{better} ({found[better][0]:.1f}) before {worse} ({found[worse][0]:.1f})")
    lines = ["Best distances, in the paper's order of FID on CIFAR-10 (its plots, read by eye):", ""]
    lines += [f"- {verdict}: {'; '.join(pairs) or 'no pair'}" for verdict, pairs in verdicts.items()]
    for name in PUBLISHED_DIVERGED:
        runs = groups.get(name, [])
        if runs:
            lines.append(
                f"- {name}, which diverges in the paper: of {len(runs)} runs here {_count(runs, _ended)} ended with "
                f"numbers that are not finite, {_count(runs, _worse)} further from the images than they began"
            )
    return lines


def _count(runs: list[EBMRun], holds: Callable[[EBMRun], bool]) -> int:
    return sum(holds(run) for run in runs)


def _ended(run: EBMRun) -> bool:
    return run.diverged is not None


def _worse(run: EBMRun) -> bool:
    found = run.values("pixel_distance")
    return bool(found) and found[-1][1] > found[0][1]


def _verdict(better: tuple[float, float], worse: tuple[float, float]) -> str:
    """Of (mean, standard deviation) each: their order, unless they are closer than their deviations together."""
    if abs(better[0] - worse[0]) <= better[1] + worse[1]:
        return "not told apart by these seeds"
    return "reproduced" if better[0] < worse[0] else "not reproduced"
