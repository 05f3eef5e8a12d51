"""Images as rows of pixels in [-1, 1]: scikit-learn's digits, and MNIST in torchvision's folder layout."""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svgdx.experiments.errors import UsageError

DATASETS = ("digits", "mnist")
HELD_OUT_DIGITS = 360


@dataclass
class Images:
    """train (N, D) and held_out (K, D), float32 in [-1, 1]; an image is side x side pixels, D = side^2."""

    train: Tensor
    held_out: Tensor

    @property
    def side(self) -> int:
        return math.isqrt(self.train.shape[1])


def load(name: str, root: str | None) -> Images:
    """The data set of that name. Raises UsageError when its folder or a file is missing or cannot be read."""
    if name == "digits":
        return _digits()
    if root is None:
        raise UsageError("--data mnist needs --data-root DIR, the folder that holds MNIST/raw/")
    return Images(_mnist(Path(root), "train"), _mnist(Path(root), "t10k"))


def _digits() -> Images:
    from sklearn.datasets import load_digits

    pixels = load_digits().data / 8 - 1
    # A fixed shuffle, the same whatever the seed of the run: distances of different runs are to the same images.
    order = np.random.default_rng(0).permutation(len(pixels))
    images = torch.tensor(pixels[order], dtype=torch.float32)
    return Images(images[HELD_OUT_DIGITS:], images[:HELD_OUT_DIGITS])


def _mnist(root: Path, part: str) -> Tensor:
    folder = root / "MNIST" / "raw"
    if not folder.is_dir():
        raise UsageError(f"--data-root: there is no folder {folder}; torchvision's layout DIR/MNIST/raw/ is expected")
    names = [f"{part}-images-idx3-ubyte", f"{part}-images-idx3-ubyte.gz"]
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise UsageError(f"--data-root: {folder} holds neither {names[0]} nor {names[1]}")
    images = read_idx_images(found[0])
    return torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1)


def read_idx_images(path: Path) -> np.ndarray:
    """Square images of an idx3-ubyte file, plain or gzipped: (N, side, side), uint8.

    The format: four big-endian 32-bit words (0x00000803, N, rows, columns), then the pixels, one byte each.

    Raises UsageError, naming the file, when it is no such file, is cut short or holds no image.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    if len(content) < 16 or content[:4] != b"\0\0\x08\x03":
        raise UsageError(f"{path}: not an idx3-ubyte file of images")
    count, rows, columns = struct.unpack(">III", content[4:16])
    if len(content) != 16 + count * rows * columns:
        raise UsageError(f"{path}: holds {len(content) - 16} bytes of pixels, its header says {count}x{rows}x{columns}")
    if rows != columns or count < 2 or rows == 0:
        raise UsageError(f"{path}: two or more square images are needed, but it holds {count} of {rows}x{columns}")
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, rows, columns)
