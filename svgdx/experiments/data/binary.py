"""Binary images: digits, MNIST, Omniglot and Caltech-101 Silhouettes, as probabilities and as bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svgdx.experiments.data import images as data
from svgdx.experiments.run.errors import UsageError

DATASETS = ("digits", "mnist", "omniglot", "silhouettes")
OMNIGLOT_FILE = "chardata.mat"
SILHOUETTES_FILE = "caltech101_silhouettes_28_split1.mat"
# The same bits in every run, whatever its seed: likelihoods of different runs are of the same images.
TRAIN_SEED, TEST_SEED = 1, 2


@dataclass
class BinaryImages:
    """Images of side x side pixels, D = side^2, row by row.

    Attributes:
        probabilities: of the training images' pixels, (N, D) float32 in [0, 1].
        train: the same drawn once, (N, D) int8 bits: the static binarisation.
        test: (K, D) int8 bits, drawn once.
    """

    probabilities: Tensor
    train: Tensor
    test: Tensor

    @property
    def side(self) -> int:
        return math.isqrt(self.train.shape[1])

    def base(self) -> Tensor:
        """0.98 mean + 0.01 of the training bits, (D,): a base distribution that excludes no image."""
        return 0.98 * self.train.float().mean(0) + 0.01

    def batch(self, rows: Tensor, binarisation: str, generator: torch.Generator) -> Tensor:
        """Training images of those rows (B,) as bits (B, D) int8: "static" ones, or "dynamic", drawn anew."""
        if binarisation == "static":
            return self.train[rows]
        if binarisation != "dynamic":
            raise ValueError(f"BinaryImages: binarisation must be static or dynamic, but is {binarisation!r}")
        return binarise(self.probabilities[rows], generator)


def binarise(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Independent int8 bits, each 1 with its own probability; of the shape of probabilities."""
    uniform = torch.rand(probabilities.shape, generator=generator, dtype=probabilities.dtype)
    return (uniform < probabilities).to(torch.int8)


def load(name: str, root: str | None) -> BinaryImages:
    """The data set of that name, one of DATASETS.

    Args:
        name: digits needs no files; mnist is read from root/MNIST/raw/ (torchvision's layout), omniglot from
            root/chardata.mat (28x28, Burda et al., ICLR 2016), silhouettes from
            root/caltech101_silhouettes_28_split1.mat (Marlin et al., AISTATS 2010; the object is 1).
        root: the folder.

    Raises:
        UsageError: root or a file in it is missing or is not what is expected; the message names it.
        ValueError: an unknown name.
    """
    if name not in DATASETS:
        raise ValueError(f"binary_images.load: name must be one of {', '.join(DATASETS)}, but is {name!r}")
    if name in ("digits", "mnist"):
        images = data.load(name, root)
        train, test = ((pixels + 1) / 2 for pixels in (images.train, images.held_out))
    elif name == "omniglot":
        train, test = _read_mat(root, OMNIGLOT_FILE, ("data", "testdata"), images_are_columns=True)
    else:
        train, test = _read_mat(root, SILHOUETTES_FILE, ("train_data", "test_data"), images_are_columns=False)
        # The files hold dark objects on a bright ground.
        train, test = 1 - train, 1 - test
    seeds = (torch.Generator().manual_seed(TRAIN_SEED), torch.Generator().manual_seed(TEST_SEED))
    return BinaryImages(train, binarise(train, seeds[0]), binarise(test, seeds[1]))


def _read_mat(root: str | None, file: str, names: tuple[str, str], images_are_columns: bool) -> tuple[Tensor, Tensor]:
    from scipy.io import loadmat

    if root is None:
        raise UsageError(f"--data-root: a folder that holds {file} is needed")
    path = Path(root) / file
    if not path.is_file():
        raise UsageError(f"--data-root: there is no file {path}")
    try:
        content = loadmat(path, variable_names=names)
    except Exception as error:  # scipy's reader raises whatever a damaged file leads it to
        raise UsageError(f"{path}: cannot be read as a MATLAB file: {error}") from error
    found = [_images(path, name, content.get(name), images_are_columns) for name in names]
    return found[0], found[1]


def _images(path: Path, name: str, values: np.ndarray | None, images_are_columns: bool) -> Tensor:
    if values is None:
        raise UsageError(f"{path}: holds no variable {name!r}")
    if images_are_columns:
        values = values.T
    if values.ndim != 2 or values.shape[1] != 28 * 28 or len(values) < 2:
        raise UsageError(f"{path}: two or more 28x28 images are expected in {name!r}, but its shape is {values.shape}")
    pixels = np.asarray(values, np.float32)
    if not ((pixels >= 0) & (pixels <= 1)).all():
        raise UsageError(f"{path}: pixels of {name!r} must lie in [0, 1]")
    # MATLAB stores an image column by column.
    return torch.from_numpy(np.ascontiguousarray(pixels.reshape(-1, 28, 28).transpose(0, 2, 1)).reshape(-1, 28 * 28))
