"""Pictures: whole files, several copies, errors that a report raises and a training survives."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

import matplotlib.image
import matplotlib.pyplot as plt
from experiments.small_runs import checkpoints, command, resume, timeless
from matplotlib.figure import Figure

from svgdx import cli
from svgdx.experiments.run.figures import sample_paths, warn_if_unwritten, write_figure, write_image


def line() -> Figure:
    figure, axis = plt.subplots(figsize=(2, 1))
    axis.plot([0, 1], [1, 0])
    return figure


def test_a_figure_is_written_to_every_path_and_closed(tmp_path: Path) -> None:
    open_before = plt.get_fignums()
    paths = sample_paths(tmp_path, 7)
    write_figure(line(), *paths, dpi=50)
    assert [path.name for path in paths] == ["samples-00000007.png", "samples.png"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert matplotlib.image.imread(paths[0]).shape == (50, 100, 4)
    assert plt.get_fignums() == open_before
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_an_image_keeps_its_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3)) / 255
    write_image(pixels, tmp_path / "image.png")
    np.testing.assert_allclose(matplotlib.image.imread(tmp_path / "image.png")[..., :3], pixels, atol=1e-6)


def test_a_full_disk_keeps_the_old_picture_and_leaves_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    write_figure(line(), path)
    content = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # The limit of a file's size fails as a full disk does.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            write_figure(line(), path, dpi=200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_training_gets_a_warning_instead_of_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_before = plt.get_fignums()
    with warn_if_unwritten():
        write_figure(line(), tmp_path / "missing" / "figure.png")
    message = capsys.readouterr().err
    assert message.startswith("warning: a picture could not be written")
    assert "missing" in message
    assert plt.get_fignums() == open_before


def test_only_failed_writing_is_a_warning() -> None:
    with pytest.raises(ValueError, match="drawing"), warn_if_unwritten():
        raise ValueError("drawing")


@pytest.mark.parametrize("experiment", ["ebm", "eb-gfn"])
def test_a_training_survives_pictures_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], experiment: str
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert cli.main(command(experiment, whole)) == 0
    shutil.copytree(whole, run)
    checkpoints(run)[-1].unlink()
    for name in ("samples.png", "curves.png"):
        # A folder cannot be replaced by a file.
        (run / name).unlink()
        (run / name).mkdir()
    capsys.readouterr()
    assert resume(experiment, run) == 0
    assert capsys.readouterr().err.count("warning: a picture could not be written") == 2
    assert timeless(run) == timeless(whole)
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}
