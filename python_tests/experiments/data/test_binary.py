"""Binary images: every data set, with small files in place of the user's, and what is refused."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from scipy.io import savemat

from svgdx import Stream
from svgdx.experiments.data import binary
from svgdx.experiments.run.errors import UsageError

DATA_ROOT = Path(os.environ.get("SVGDX_DATA_ROOT", Path(__file__).parents[2] / ".." / "shared" / "data"))


def draw(seed: int = 1) -> Stream:
    return Stream(seed)


def test_digits_have_intensities_and_bits_drawn_from_them(digits: torch.Tensor) -> None:
    images = binary.load_binary_images("digits", None)
    assert images.probabilities.shape == (1437, 64)
    assert images.side == 8
    assert images.test.shape == (360, 64)
    assert images.train.dtype == images.test.dtype == torch.int8
    assert {tuple(row) for row in images.probabilities.tolist()} <= {tuple(row) for row in digits.tolist()}
    certain = (images.probabilities == 0) | (images.probabilities == 1)
    assert torch.equal(images.train[certain].float(), images.probabilities[certain])
    assert float((images.train - images.probabilities)[~certain].mean()) == pytest.approx(0, abs=0.01)
    again = binary.load_binary_images("digits", None)
    assert torch.equal(again.train, images.train)
    assert torch.equal(again.test, images.test)


def test_static_bits_stay_and_dynamic_bits_are_drawn_anew() -> None:
    images = binary.load_binary_images("digits", None)
    rows = torch.arange(500)
    assert torch.equal(images.batch(rows, "static", draw()), images.train[:500])
    stream = draw()
    drawn = torch.stack([images.batch(rows, "dynamic", stream) for _ in range(100)])
    assert drawn.dtype == torch.int8
    assert not torch.equal(drawn[0], drawn[1])
    # The largest of 32,000 means of 100 draws; a mean has a standard deviation of at most 0.05.
    assert float((drawn.float().mean(0) - images.probabilities[:500]).abs().max()) < 0.28
    with pytest.raises(ValueError, match="static or dynamic, but is 'none'"):
        images.batch(rows, "none", draw())


def test_base_excludes_no_image() -> None:
    images = binary.load_binary_images("digits", None)
    base = images.base()
    assert bool(((base >= 0.0099) & (base <= 0.9901)).all())
    torch.testing.assert_close(base, 0.98 * images.train.double().mean(0).float() + 0.01)


@pytest.mark.skipif(not (DATA_ROOT / "MNIST" / "raw").is_dir(), reason="no MNIST: set SVGDX_DATA_ROOT to its folder")
@pytest.mark.parametrize(("name", "side"), [("mnist", 28), ("mnist14", 14)])
def test_mnist_is_read(name: str, side: int) -> None:
    images = binary.load_binary_images(name, str(DATA_ROOT))
    assert images.probabilities.shape[1] == images.test.shape[1] == side * side
    assert images.side == side
    assert len(images.probabilities) == len(images.train) > len(images.test) > 0
    assert float(images.probabilities.max()) == 1
    assert float(images.train.float().mean()) == pytest.approx(0.131, abs=0.01)


def test_mnist14_averages_squares_of_four_pixels(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for split, part in (("train", pictures[:3]), ("t10k", pictures[3:])):
        header = struct.pack(">IIII", 0x803, *part.shape)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + part.tobytes())
    images = binary.load_binary_images("mnist14", str(tmp_path))
    assert images.side == 14
    assert images.test.shape == (2, 196)
    expected = pictures[:3].reshape(3, 14, 2, 14, 2).mean((2, 4)) / 255
    np.testing.assert_allclose(images.probabilities.reshape(3, 14, 14).numpy(), expected, atol=1e-6)
    for split, part in (("train", pictures[:3, :26, :26]), ("t10k", pictures[3:, :26, :26])):
        header = struct.pack(">IIII", 0x803, *part.shape)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + part.tobytes())
    with pytest.raises(UsageError, match="mnist14 averages images of 28x28 pixels, but these have 26x26"):
        binary.load_binary_images("mnist14", str(tmp_path))


def in_matlab_order(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 2, 1).reshape(len(images), -1)


def test_omniglot_is_read_upright(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).random((5, 28, 28))
    contents = {"data": in_matlab_order(pictures[:3]).T, "testdata": in_matlab_order(pictures[3:] > 0.5).T * 1.0}
    savemat(tmp_path / "chardata.mat", contents)
    images = binary.load_binary_images("omniglot", str(tmp_path))
    np.testing.assert_allclose(images.probabilities.reshape(3, 28, 28).numpy(), pictures[:3], rtol=1e-6)
    np.testing.assert_array_equal(images.test.reshape(2, 28, 28).numpy(), pictures[3:] > 0.5)


def test_silhouettes_are_read_upright_with_the_object_as_one(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 2, (6, 28, 28), dtype=np.uint8)
    rows = in_matlab_order(1 - pictures)
    file = tmp_path / "caltech101_silhouettes_28_split1.mat"
    savemat(file, {"train_data": rows[:3], "val_data": rows[:1], "test_data": rows[3:]})
    images = binary.load_binary_images("silhouettes", str(tmp_path))
    np.testing.assert_array_equal(images.train.reshape(3, 28, 28).numpy(), pictures[:3])
    np.testing.assert_array_equal(images.test.reshape(3, 28, 28).numpy(), pictures[3:])


@pytest.mark.parametrize(
    ("name", "file"), [("omniglot", "chardata.mat"), ("silhouettes", "caltech101_silhouettes_28_split1.mat")]
)
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, name: str, file: str) -> None:
    def refused(root: str | None, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            binary.load_binary_images(name, root)

    refused(None, f"the data set needs a folder that holds {file}")
    refused(str(tmp_path), f"the file {tmp_path / file} does not exist")
    (tmp_path / file).write_bytes(b"MATLAB 5.0 MAT-file, cut short")
    refused(str(tmp_path), f"{file}: the file cannot be read as a MATLAB file")
    savemat(tmp_path / file, {"other": np.zeros((784, 784))})
    refused(str(tmp_path), f"{file}: the file holds no variable")
    both = ("data", "testdata") if name == "omniglot" else ("train_data", "test_data")
    savemat(tmp_path / file, dict.fromkeys(both, np.zeros((100, 50))))
    refused(str(tmp_path), f"{file}: .* must hold two or more 28x28 images")
    savemat(tmp_path / file, dict.fromkeys(both, np.full((784, 784), 255.0)))
    refused(str(tmp_path), r"must lie in \[0, 1\]")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="one of digits, mnist, mnist14, omniglot, silhouettes"):
        binary.load_binary_images("faces", None)
    with pytest.raises(UsageError, match="--data mnist needs --data-root"):
        binary.load_binary_images("mnist", None)
