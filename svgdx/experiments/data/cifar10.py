"""CIFAR-10 as torchvision lays it down: pickled batches, read without running anything that is in them."""

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
    """Training and test part of cifar-10-batches-py/, each (pixels (N, 3072) uint8, channels first; labels (N,)).

    Raises UsageError, naming the file, when one is missing or is not a batch of CIFAR-10.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    parts = []
    for names in (TRAIN, HELD_OUT):
        batches = [read_batch(folder / name) for name in names]
        parts.append((np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])))
    return parts


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3072) uint8 and labels (N,) of one batch. Raises UsageError that names the file."""
    try:
        # Written by Python 2, whose text is bytes.
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except OSError as error:
        raise UsageError(f"--data-root: {path} cannot be read: {error.strerror}") from error
    except Exception as error:  # unpickling raises whatever a damaged file leads it to
        raise UsageError(f"{path}: not a batch of CIFAR-10: {error}") from error
    if not isinstance(content, dict) or not {b"data", b"labels"} <= content.keys():
        raise UsageError(f"{path}: a batch with b'data' and b'labels' is expected")
    pixels, labels = content[b"data"], content[b"labels"]
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (DIM,)):
        found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise UsageError(f"{path}: b'data' must be uint8 of shape (N, {DIM}), but is {found}")
    if not (isinstance(labels, list) and len(labels) == len(pixels) and all(_is_label(label) for label in labels)):
        raise UsageError(f"{path}: b'labels' must be {len(pixels)} whole numbers from 0 to 9")
    return pixels, np.array(labels)


def _is_label(label: Any) -> bool:
    return type(label) is int and 0 <= label <= 9


class _Unpickler(pickle.Unpickler):
    """Builds numpy arrays and Python's own containers, and refuses to look up anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes where the pickle may be read by Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding}")
    return text.encode("latin1")
