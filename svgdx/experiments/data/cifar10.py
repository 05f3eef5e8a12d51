"""CIFAR-10 in torchvision's layout: pickled batches, read without running any code in them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from svgdx.experiments.run.errors import UsageError

TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
HELD_OUT = ("test_batch",)
DIM = 3 * 32 * 32


def read(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """The training and the test split of cifar-10-batches-py/ as (pixels, labels).

    Returns:
        For each split, pixels (N, 3072) uint8, channels first, and labels (N,).

    Raises:
        UsageError: a file is missing or is not a batch of CIFAR-10; the message names it.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    splits = []
    for names in (TRAIN, HELD_OUT):
        pixels, labels = zip(*(read_batch(folder / name) for name in names), strict=True)
        splits.append((np.concatenate(pixels), np.concatenate(labels)))
    return splits


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3072) uint8 and labels (N,) of one batch. Raises UsageError that names the file."""
    try:
        # Python 2 wrote the files, so text comes back as bytes.
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except OSError as error:
        raise UsageError(f"--data-root: {path} cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged file can make unpickling raise anything
        raise UsageError(f"{path}: this is not a batch of CIFAR-10: {error}") from error
    if not isinstance(content, dict) or not {b"data", b"labels"} <= content.keys():
        raise UsageError(f"{path}: the file must hold a batch with b'data' and b'labels'")
    pixels, labels = content[b"data"], content[b"labels"]
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (DIM,)):
        actual = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise UsageError(f"{path}: b'data' must be uint8 of shape (N, {DIM}), but is {actual}")
    if not (isinstance(labels, list) and len(labels) == len(pixels) and all(_is_label(label) for label in labels)):
        raise UsageError(f"{path}: b'labels' must be {len(pixels)} whole numbers from 0 to 9")
    return pixels, np.array(labels)


def _is_label(label: Any) -> bool:
    return type(label) is int and 0 <= label <= 9


class _Unpickler(pickle.Unpickler):
    """Builds NumPy arrays and Python's built-in containers, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes in a pickle that Python 3 wrote for Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding}")
    return text.encode("latin1")
