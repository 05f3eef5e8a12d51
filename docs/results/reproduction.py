"""Writes docs/reproduction.md: every figure and number of the two papers beside what this repository measured.

python docs/results/reproduction.py

Our numbers are cells of the tables of the committed reports, never typed in here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parent.parent
NONE = "no result"


class Cell(NamedTuple):
    """A cell of a report: its file below docs/results, the heading above the table, and the first cells of its row."""

    file: str
    heading: str
    row: tuple[str, ...]
    column: str


class Entry(NamedTuple):
    """A published figure or number and where ours is.

    tolerance: ours reproduces a published number if it is at most this far away, or better if `better` says in which
    direction; None leaves the verdict to `verdict`. command: what only the line of the command contains. bounds:
    cells that the first of ours should reach but for the tolerance, in place of the published number; the last one is
    a peer that is only compared.
    """

    source: str
    published: str
    cells: tuple[tuple[str, Cell], ...] = ()
    setting: str = ""
    command: tuple[str, str] | None = None
    verdict: str = ""
    tolerance: float | None = None
    better: int = 0
    bounds: tuple[tuple[str, Cell], ...] = ()


def tables(file: str) -> dict[str, list[list[list[str]]]]:
    """The tables below each heading of a report, as rows of cells; those of the title are under the empty heading."""
    path, heading, inside = DOCS / "results" / file, "", False
    by_heading: dict[str, list[list[list[str]]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        if line.startswith("## "):
            heading = line[3:]
        if line.startswith("|"):
            if not inside:
                by_heading.setdefault(heading, []).append([])
            by_heading[heading][-1].append([cell.strip() for cell in line.strip().strip("|").split("|")])
        inside = line.startswith("|")
    return by_heading


def value(cell: Cell) -> str:
    """The text of a cell; NONE if the report has no such row. Raises KeyError if it has no such column."""
    below = tables(cell.file).get(cell.heading, [])
    wanted = [rows for rows in below if cell.column in rows[0]]
    if below and not wanted:
        raise KeyError(f"{cell.file}, {cell.heading!r}: there is no column {cell.column!r}")
    column = wanted[0][0].index(cell.column) if wanted else 0
    return next((row[column] for rows in wanted for row in rows[2:] if tuple(row[: len(cell.row)]) == cell.row), NONE)


def command(file: str, needle: str) -> str:
    """The lines of a report's commands that contain the text."""
    lines = [re.sub(r"^- |`|^ +", "", line) for line in (DOCS / "results" / file).read_text().splitlines()]
    whole = re.compile(re.escape(needle) + r"(?![\w.-])")
    lines = [line for line in lines if whole.search(line) and "svgdx " in line and "report " not in line]
    if not lines:
        raise ValueError(f"{file}: no command contains {needle!r}")
    return "; ".join(lines)


def number(text: str) -> float:
    """The first number of a text."""
    match = re.search(r"-?\d[\d,]*\.?\d*", text)
    if match is None:
        raise ValueError(f"there is no number in {text!r}")
    return float(match.group().replace(",", ""))


def verdict(entry: Entry) -> str:
    """The verdict of an entry: by its tolerance, or as it says; rows without a result say so."""
    values = [value(cell) for _, cell in entry.cells]
    if not values or NONE in values:
        return NONE
    if entry.tolerance is None:
        return entry.verdict
    if entry.bounds:
        gaps = [(name, number(values[0]) - number(value(cell))) for name, cell in entry.bounds]
        distances = "; ".join(f"{gap:+.3f} from {name}" for name, gap in gaps)
        # The last of the bounds is a peer.
        reached = next((name for name, gap in gaps[:-1] if gap >= -entry.tolerance), None)
        return f"{'not reached' if reached is None else f'shown, within {entry.tolerance:g} of {reached}'}: {distances}"
    gap = number(values[0]) - number(entry.published)
    reproduced = abs(gap) <= entry.tolerance or gap * entry.better > 0
    return "reproduced" if reproduced else f"not reproduced: {gap:+.3g}"


def toy(target: str, preset: str, column: str = "entropy, nats") -> Cell:
    """A cell of the page on toy problems."""
    return Cell("toys.md", "", (target, preset), column)


def claim(text: str) -> Cell:
    """The verdict on a claim, in the report on points."""
    return Cell("points/report.md", "The claims", (text,), "verdict")


def digits(row: str) -> Cell:
    """The best feature distance of a row, in the report on digits."""
    return Cell("ebm/report.md", "", (row,), "feature_distance, best")


def walker(row: str) -> Cell:
    """A return on Walker2d."""
    return Cell("rl/report.md", "Walker2d-v5", (row,), "IQM at step 15,000")


def multigoal(row: str) -> Cell:
    """The least share of the rollouts of a seed that reach a goal."""
    return Cell("rl/report.md", "svgdx/Multigoal-v0, four goals", (row,), "lowest of all seeds")


def ising(side: int, sigma: str, sampler: str, column: str) -> Cell:
    """A cell of the page on Ising models; without a sampler, of what the samples allow."""
    return Cell("ising.md", "Ising models", tuple(filter(None, (f"{side}×{side}", sigma, sampler))), column)


def gfn(heading: str, row: tuple[str, ...], column: str) -> Cell:
    """A cell of the page on EB-GFN."""
    return Cell("eb_gfn.md", heading, row, column)


SITE, PAPER = "MET-SVGD", "EB-GFN"
WALKER = "Walker2d-v5, 15,000 of 1,000,000 steps, width 64, 3 seeds"
SHORT = "cannot be compared: 15,000 steps"
OTHER = "other data; no FID here"
DIGITS = "8x8 digits, 500 updates, 3 seeds, feature distance; CIFAR-10 is not at hand"
PLANE = "fresh points, GFlowNet"
POINTS = "seven sets in the plane and digits in 8-D"
_LEARNT = "a learnt bandwidth and the full trace beat P-SVGD"

ENTRIES: tuple[Entry, ...] = (
    Entry(
        f"{SITE}: 2-D Gaussian, σ learnt, entropy", "3.411", (("entropy", toy("gaussian", "met-svgd")),),
        "M = L = 200, 100 epochs", ("toys.md", "--out gaussian"), tolerance=0.05,
    ),
    Entry(
        f"{SITE}: 2-D Gaussian, σ = 5 fixed, entropy off", "3.411", (("entropy", toy("gaussian", "svgd")),),
        "M = 200, L = 500 of 2,000", ("toys.md", "--out gaussian-sigma5"), "reproduced: the entropy is too low",
    ),
    Entry(f"{SITE}: 2-D Gaussian, σ = 1 fixed", "figure"),
    Entry(
        f"{SITE}: two Gaussians, entropy", "1.330 by quadrature", (("entropy", toy("two-gaussians", "met-svgd")),),
        "M = 50, L = 100, 300 epochs", ("toys.md", "--out two-gaussians"), tolerance=0.1,
    ),
    Entry(
        f"{SITE}: ill-conditioned Gaussian, MH keeps particles", "figure",
        (("largest norm with MH", toy("ill-conditioned", "met-svgd", "largest norm of a particle")),
         ("without", toy("ill-conditioned", "svgd", "largest norm of a particle"))),
        "M = 100, L = 25, ε = 0.1", ("toys.md", "--out ill-conditioned-mh"), "reproduced",
    ),
    Entry(
        f"{SITE}: N(0, I) in 10-D, entropy", "14.189", (("entropy", toy("gaussian-10d", "met-svgd")),),
        "M = L = 100, 200 epochs", ("toys.md", "--out gaussian-10d"), tolerance=0.15,
    ),
    *(
        Entry(
            f"{SITE}: mixture of 4 Gaussians in {dim}-D, entropy", truth,
            (("entropy", toy(f"mixture-4-{dim}d", "met-svgd")),), "M = L = 100",
            ("toys.md", f"mixture-4-{dim}d"), tolerance=0.1,
        )
        for dim, truth in ((2, "4.211"), (10, "15.560"), (20, "29.765"))
    ),
    Entry(f"{SITE}: mixtures of 1, 2 and 6 Gaussians; 100-D", "figures"),
    *(
        Entry(
            f"{SITE}: CIFAR-10, {name}, best FID", fid, (("feature distance", digits(row)),), DIGITS,
            ("ebm/report.md", f"--out {row}-$seed"), OTHER,
        )
        for name, fid, row in (
            ("Langevin", "34", "langevin"), ("P-SVGD", "114", "p-svgd"), ("σ_θ", "34", "met-svgd-sigma"),
            ("σ_θ ε_θ", "23", "met-svgd"), ("+ L_c", "22.9; last 24", "met-svgd-lc"), ("Glow", "curve", "glow"),
        )
    ),
    *(
        Entry(
            f"{SITE}: {text}", published, (("verdict on points", claim(text)),),
            POINTS, ("points/report.md", f"--out {row}-$data-$seed"), "see the cell",
        )
        for text, published, row in (
            ("MET-SVGD trains a better energy than Langevin dynamics", "FID 23 against 34", "langevin"),
            (_LEARNT, "FID 34 against 114", "p-svgd"),
            ("a learnt step size beats a fixed one", "FID 23 against 34", "met-svgd-sigma"),
            ("stopping by L_c costs nothing", "FID 22.9 against 23", "met-svgd-lc"),
            ("without Tr H training diverges", "diverges", "met-svgd-no-trace"),
            ("without eps_UB training diverges", "diverges", "met-svgd-no-bound"),
            ("with Metropolis-Hastings training diverges", "diverges", "met-svgd-mh"),
        )
    ),
    *(
        Entry(
            f"{SITE}: Walker2d, {name}, return", published, (("IQM", walker(row)),), WALKER,
            ("rl/report.md", f"--out walker2d-v5-{folder}"), SHORT,
        )
        for name, published, row, folder in (
            ("SAC", "4384", "sac", "sac"), ("SAC-NF", "4069", "sac-nf", "sac-nf"),
            ("P-SVGD, M = 10", "4256", "p-svgd", "p-svgd"),
            ("σ_θ ε_θ", "4594", "met-svgd, elu", "met-svgd-elu"),
            ("+ MH-ε-greedy", "4785", "met-svgd-mh-greedy", "met-svgd-mh-greedy"),
        )
    ),
    Entry(f"{SITE}: Walker2d, M = 64 with MH-ε-greedy, return", "4853 (best)"),
    Entry(f"{SITE}: Walker2d, M = 64; M = 64 with MH", "curves"),
    Entry(f"{SITE}: Walker2d, σ_θ and σ_θ ε_θ without Tr H", "curves; the second is worst"),
    Entry(f"{SITE}: Walker2d, without ε_UB; + L_c; + MH", "curves"),
    Entry(
        "S2AC: multigoal, all goals are reached", "figure",
        (("least share of a goal, %, MET-SVGD", multigoal("met-svgd, softplus")), ("SAC", multigoal("sac"))),
        "15,000 steps, 3 seeds, 200 rollouts",
        ("rl/report.md", "--out svgdx-multigoal-v0-four-goals-met-svgd-softplus"),
        "reproduced, but SAC reaches all goals too",
    ),
    *(
        Entry(
            f"{PAPER}: {data}, NLL", published,
            (("NLL", gfn("2-D data", (data, "eb-gfn"), "GFlowNet")),), PLANE,
            ("eb_gfn.md", f"eb-gfn --data {data}") if trained else None, tolerance=0.03, better=-1,
        )
        for data, published, trained in (
            ("2spirals", "20.050", True), ("8gaussians", "19.982", True), ("circles", "20.546", False),
            ("pinwheel", "19.554", False),
        )
    ),
    Entry(
        f"{PAPER}: checkerboard, NLL", "not found; 20.677 is the floor",
        (("NLL", gfn("2-D data", ("checkerboard", "eb-gfn"), "GFlowNet")),), PLANE,
        ("eb_gfn.md", "--data checkerboard"), "within 0.05 nats of the floor",
    ),
    Entry(f"{PAPER}: moons and swissroll, NLL", "not found"),
    *(
        Entry(
            f"{PAPER}: Ising {grid}×{grid}, σ = {sigma}, {name}, -log RMSE", published,
            (("-log RMSE", ising(grid, sigma, row, "-log RMSE")),),
            "2,000 samples, concave penalty and refit, 1 seed",
            ("ising.md", f"--out ising-{grid}-{sigma}-{row}"), tolerance=0.1, better=1,
            bounds=(
                ("the bound", ising(grid, sigma, row, "bound")),
                ("these samples with known edges", ising(grid, sigma, "", "edges known")),
                ("pseudo-likelihood without them", ising(grid, sigma, "", "edges found")),
            ),
        )
        for grid, sigma, published_of in (
            (10, "0.1", "6.1"), (10, "0.2", "curve"), (10, "0.3", "curve"), (9, "-0.1", "5.7"), (9, "-0.2", "curve"),
        )
        for name, row, published in (
            ("EB-GFN", "eb-gfn", published_of), ("PCD-Gibbs", "pcd-gibbs", "curve"), ("PCD-GWG", "pcd-gwg", "curve"),
        )
    ),
    Entry(f"{PAPER}: Ising, 10×10 σ = 0.4 and 0.5", "curves"),
    *(
        Entry(
            f"{PAPER}: {what}, log-likelihood", published,
            (("digits, nats per image", gfn(
                "Binary images", ("digits, static", "eb-gfn"), "energy by AIS, nats"
            )),) if what.startswith("static") else (),
            "8x8 digits", ("eb_gfn.md", "--out runs/digits-eb-gfn") if what.startswith("static") else None,
            "other data",
        )
        for what, published in (
            ("static MNIST", "-102.4"), ("dynamic MNIST", "-105.8"), ("Omniglot", "-112.6"),
        )
    ),
    *(
        Entry(
            f"{PAPER}: MNIST, persistent CD with {name}, bits/dim", published,
            (("digits, bits/dim", gfn("Binary images", ("digits, static", row), "energy by AIS, bits/dim")),),
            "8x8 digits", ("eb_gfn.md", f"--out runs/digits-{row}"), "other data",
        )
        for name, published, row in (("Gibbs", "0.211", "pcd-gibbs"), ("GWG", "0.138", "pcd-gwg"))
    ),
)  # fmt: skip


def text() -> str:
    """The page as Markdown."""
    rows = [["source and figure", "published", "ours", "setting and scale", "command", "verdict"], ["---"] * 6]
    for entry in ENTRIES:
        ours = "; ".join(f"{name} {value(cell)}" for name, cell in entry.cells) or NONE
        verdict_text = verdict(entry)
        present = verdict_text != NONE
        line = f"`{command(*entry.command)}`" if entry.command and present else "–"
        verdict_text = value(entry.cells[0][1]) if verdict_text == "see the cell" else verdict_text
        rows.append(
            [entry.source, entry.published, ours if present else NONE, entry.setting or "–", line, verdict_text]
        )
    lines = [
        "# What is reproduced",
        "",
        "Every figure and number of [MET-SVGD](guides/ebm.md) (with [its policies](guides/rl.md)) and of "
        "[EB-GFN](guides/eb_gfn.md) that is known here, beside what this repository measured. Our numbers are those of "
        "the reports on [toy problems](results/toys.md), [points](results/points/report.md), "
        "[digits](results/ebm/report.md), [policies](results/rl/report.md), [EB-GFN](results/eb_gfn.md) and "
        "[Ising models](results/ising.md); "
        "`python docs/results/reproduction.py` writes this page from them. Numbers of plots are read off by eye.",
        "",
        *("| " + " | ".join(cells) + " |" for cells in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (DOCS / "reproduction.md").write_text(text(), encoding="utf-8")
