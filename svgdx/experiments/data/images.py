"""Images as rows of pixels in [-1, 1]: digits, MNIST, CIFAR-10 and patches of photographs."""

from __future__ import annotations

import functools
import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svgdx.experiments.data import cifar10, photographs
from svgdx.experiments.run.errors import UsageError

DATASETS = ("digits", "mnist", "cifar10", "patches")
# Folders in --data-root of the data sets that are read from files, in torchvision's layout.
FOLDERS = {"mnist": "MNIST/raw", "cifar10": "cifar-10-batches-py"}
HELD_OUT_DIGITS = 360


@dataclass
class Images:
    """Images as rows of pixels.

    Attributes:
        train: training images (N, D), float32 in [-1, 1].
        held_out: held-out images (K, D), float32 in [-1, 1].
        shape: (channels, height, width), whose product is D.
        train_labels, held_out_labels: (N,) and (K,) int64, the class of each image. Patches have no classes; their
            label is the photograph that they are cut from. None if the labels were not loaded.
    """

    train: Tensor
    held_out: Tensor
    shape: tuple[int, int, int]
    train_labels: Tensor | None = None
    held_out_labels: Tensor | None = None


def load_images(name: str, root: str | None, labels: bool = False) -> Images:
    """The data set of that name, one of DATASETS.

    Args:
        name: of the data set.
        root: folder of the data sets that are read from files; see FOLDERS.
        labels: whether to read the labels of MNIST, which are in files of their own; the other data sets have them.

    Raises:
        UsageError: the folder or a file is missing or cannot be read.
    """
    if name == "digits":
        return _digits()
    if name == "patches":
        return _from_uint8((3, photographs.SIDE, photographs.SIDE), photographs.patches())
    if root is None:
        raise UsageError(f"--data {name} needs --data-root DIR, the folder that holds {FOLDERS[name]}/")
    folder = Path(root) / FOLDERS[name]
    if not folder.is_dir():
        raise UsageError(f"--data-root: there is no folder {folder}; torchvision's layout {FOLDERS[name]}/ is expected")
    if name == "cifar10":
        return _from_uint8((3, 32, 32), cifar10.read(folder))
    train, held_out = _idx(folder, "train", 3), _idx(folder, "t10k", 3)
    if train.shape[1:] != held_out.shape[1:]:
        raise UsageError(
            f"{folder}: training images have shape {train.shape[1:]}, but test images have shape {held_out.shape[1:]}"
        )
    images = Images(_pixels(train), _pixels(held_out), (1, *train.shape[1:]))
    if labels:
        images.train_labels = _mnist_labels(folder, "train", len(train))
        images.held_out_labels = _mnist_labels(folder, "t10k", len(held_out))
    return images


@functools.cache
def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn parses the numbers from text, which takes .1 s."""
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def _digits() -> Images:
    pixels, target = _read_digits()
    # The shuffle does not depend on the seed of the run, so that distances of all runs are to the same images.
    order = np.random.default_rng(0).permutation(len(pixels))
    images = torch.tensor(pixels[order] / 8 - 1, dtype=torch.float32)
    labels = torch.tensor(target[order], dtype=torch.int64)
    n = HELD_OUT_DIGITS
    return Images(images[n:], images[:n], (1, 8, 8), labels[n:], labels[:n])


def _from_uint8(shape: tuple[int, int, int], splits: list[tuple[np.ndarray, np.ndarray]]) -> Images:
    """Images from (pixels (N, D) uint8, labels (N,)) of the training and the held-out split."""
    (train, train_labels), (held_out, held_out_labels) = splits
    labels = [torch.from_numpy(values.astype(np.int64)) for values in (train_labels, held_out_labels)]
    return Images(_pixels(train), _pixels(held_out), shape, *labels)


def _pixels(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.reshape(len(values), -1).astype(np.float32) / 127.5 - 1)


def _mnist_labels(folder: Path, split: str, count: int) -> Tensor:
    labels = _idx(folder, split, 1)
    if len(labels) != count:
        raise UsageError(f"{folder}: there are {count} {split} images, but {len(labels)} labels")
    return torch.from_numpy(labels.astype(np.int64))


def _idx(folder: Path, split: str, dims: int) -> np.ndarray:
    content = "images" if dims == 3 else "labels"
    names = [f"{split}-{content}-idx{dims}-ubyte", f"{split}-{content}-idx{dims}-ubyte.gz"]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise UsageError(f"--data-root: {folder} holds neither {names[0]} nor {names[1]}")
    return read_idx_images(path) if dims == 3 else read_idx_labels(path)


def read_idx_images(path: Path) -> np.ndarray:
    """Square images of an idx3-ubyte file, plain or gzipped: (N, side, side), uint8.

    The file has four big-endian 32-bit words (0x00000803, N, rows, columns), then one byte per pixel.

    Raises UsageError, naming the file, if it has another format, is truncated, or holds fewer than two images.
    """
    content = _content(path)
    if len(content) < 16 or content[:4] != b"\0\0\x08\x03":
        raise UsageError(f"{path}: this is not an idx3-ubyte file of images")
    count, rows, columns = struct.unpack(">III", content[4:16])
    if len(content) != 16 + count * rows * columns:
        size = f"{count}x{rows}x{columns}"
        raise UsageError(f"{path}: the file holds {len(content) - 16} bytes of pixels, but its header says {size}")
    if rows != columns or count < 2 or rows == 0:
        raise UsageError(f"{path}: two or more square images are needed, but there are {count} of {rows}x{columns}")
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, rows, columns)


def read_idx_labels(path: Path) -> np.ndarray:
    """Labels 0 to 9 of an idx1-ubyte file, plain or gzipped: (N,), uint8.

    The file has two big-endian 32-bit words (0x00000801, N), then one byte per label.

    Raises UsageError, naming the file, if it has another format, is truncated, or holds another label.
    """
    content = _content(path)
    if len(content) < 8 or content[:4] != b"\0\0\x08\x01":
        raise UsageError(f"{path}: this is not an idx1-ubyte file of labels")
    (count,) = struct.unpack(">I", content[4:8])
    if len(content) != 8 + count:
        raise UsageError(f"{path}: the file holds {len(content) - 8} labels, but its header says {count}")
    labels = np.frombuffer(content, np.uint8, offset=8)
    if count and labels.max() > 9:
        raise UsageError(f"{path}: labels must be 0 to 9, but one is {labels.max()}")
    return labels


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
