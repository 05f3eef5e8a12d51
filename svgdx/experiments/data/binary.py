"""Binary images: digits, MNIST at two sizes, Omniglot and Caltech-101 Silhouettes, as probabilities and as bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svgdx.experiments.data.images import load_images
from svgdx.experiments.run.errors import UsageError
from svgdx.streams import Stream

DATASETS = ("digits", "mnist", "mnist14", "omniglot", "silhouettes")
OMNIGLOT_FILE = "chardata.mat"
SILHOUETTES_FILE = "caltech101_silhouettes_28_split1.mat"
# The bits do not depend on the seed of the run, so that likelihoods of all runs are of the same images.
TRAIN_SEED, TEST_SEED = 1, 2


@dataclass
class BinaryImages:
    """Images of side x side pixels as rows of D = side^2 bits.

    Attributes:
        probabilities: probabilities of the training images' pixels, (N, D) float32 in [0, 1].
        train: bits drawn once from them, (N, D) int8: the static binarisation.
        test: bits of the test images, drawn once, (K, D) int8.
    """

    probabilities: Tensor
    train: Tensor
    test: Tensor

    @property
    def side(self) -> int:
        """Height and width of an image in pixels."""
        return math.isqrt(self.train.shape[1])

    def to(self, device: torch.device) -> BinaryImages:
        """The same images on a device."""
        return BinaryImages(self.probabilities.to(device), self.train.to(device), self.test.to(device))

    def base(self) -> Tensor:
        """0.98 mean + 0.01 of the training bits, (D,): probabilities of a base distribution that excludes no image."""
        return 0.98 * self.train.float().mean(0) + 0.01

    def batch(self, rows: Tensor, binarisation: str, stream: Stream) -> Tensor:
        """Training images as bits (B, D), int8.

        Args:
            rows: indices of the images, (B,).
            binarisation: "static" takes the bits of `train`; "dynamic" draws new ones.
            stream: for "dynamic".

        Raises:
            ValueError: an unknown binarisation.
        """
        if binarisation == "static":
            return self.train[rows]
        if binarisation != "dynamic":
            raise ValueError(f"BinaryImages: binarisation must be static or dynamic, but is {binarisation!r}")
        probabilities = self.probabilities[rows]
        return stream.bernoulli(probabilities, probabilities).to(torch.int8)


def binarise(probabilities: Tensor, seed: int) -> Tensor:
    """The static bits, int8, of images on the CPU: 1 with these probabilities, the same in all runs."""
    uniform = torch.rand(probabilities.shape, generator=torch.Generator().manual_seed(seed), dtype=probabilities.dtype)
    return (uniform < probabilities).to(torch.int8)


def load_binary_images(name: str, root: str | None) -> BinaryImages:
    """The data set of that name, one of DATASETS.

    Args:
        name: digits needs no files; mnist is read from root/MNIST/raw/ (torchvision's layout), mnist14 are the same
            images averaged over 2x2 pixels, omniglot is read from root/chardata.mat (28x28, Burda et al., ICLR 2016),
            silhouettes from root/caltech101_silhouettes_28_split1.mat (Marlin et al., AISTATS 2010; the object is 1).
        root: folder of the files.

    Raises:
        UsageError: root or a file in it is missing, or the file has another content; the message names it.
        ValueError: an unknown name.
    """
    if name not in DATASETS:
        raise ValueError(f"load_binary_images: name must be one of {', '.join(DATASETS)}, but is {name!r}")
    if name in ("digits", "mnist", "mnist14"):
        images = load_images("digits" if name == "digits" else "mnist", root)
        train, test = ((pixels + 1) / 2 for pixels in (images.train, images.held_out))
        if name == "mnist14":
            train, test = _halved(train, images.shape), _halved(test, images.shape)
    elif name == "omniglot":
        train, test = _read_mat(root, OMNIGLOT_FILE, ("data", "testdata"), images_are_columns=True)
    else:
        train, test = _read_mat(root, SILHOUETTES_FILE, ("train_data", "test_data"), images_are_columns=False)
        # The files hold dark objects on a bright background.
        train, test = 1 - train, 1 - test
    return BinaryImages(train, binarise(train, TRAIN_SEED), binarise(test, TEST_SEED))


def _halved(pixels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Images (N, 784), averaged over squares of 2x2 pixels: (N, 196)."""
    if shape != (1, 28, 28):
        raise UsageError(f"--data mnist14 averages images of 28x28 pixels, but these have {shape[1]}x{shape[2]}")
    return torch.nn.functional.avg_pool2d(pixels.view(-1, *shape), 2).flatten(1)


def _read_mat(root: str | None, file: str, names: tuple[str, str], images_are_columns: bool) -> tuple[Tensor, Tensor]:
    from scipy.io import loadmat

    if root is None:
        raise UsageError(f"--data-root: the data set needs a folder that holds {file}")
    path = Path(root) / file
    if not path.is_file():
        raise UsageError(f"--data-root: the file {path} does not exist")
    try:
        content = loadmat(path, variable_names=names)
    except Exception as error:  # a damaged file can make scipy's reader raise anything
        raise UsageError(f"{path}: the file cannot be read as a MATLAB file: {error}") from error
    train, test = (_images(path, name, content.get(name), images_are_columns) for name in names)
    return train, test


def _images(path: Path, name: str, values: np.ndarray | None, images_are_columns: bool) -> Tensor:
    if values is None:
        raise UsageError(f"{path}: the file holds no variable {name!r}")
    if images_are_columns:
        values = values.T
    if values.ndim != 2 or values.shape[1] != 28 * 28 or len(values) < 2:
        raise UsageError(f"{path}: {name!r} must hold two or more 28x28 images, but its shape is {values.shape}")
    pixels = np.asarray(values, np.float32)
    if not ((pixels >= 0) & (pixels <= 1)).all():
        raise UsageError(f"{path}: pixels of {name!r} must lie in [0, 1]")
    # MATLAB stores an image column by column.
    return torch.from_numpy(np.ascontiguousarray(pixels.reshape(-1, 28, 28).transpose(0, 2, 1)).reshape(-1, 28 * 28))
