"""Image data sets: what is read from packages and from files in torchvision's layout, and what is refused."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from svgdx.experiments.data import cifar10, photographs
from svgdx.experiments.data.images import load_images, read_idx_images
from svgdx.experiments.run.errors import UsageError


def write_mnist(root: Path, compress: bool, side: int = 4) -> tuple[np.ndarray, np.ndarray]:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (40, side, side), dtype=np.uint8)
    labels = np.arange(40, dtype=np.uint8) % 10
    contents = {
        "images-idx3-ubyte": struct.pack(">IIII", 0x803, *images.shape) + images.tobytes(),
        "labels-idx1-ubyte": struct.pack(">II", 0x801, len(labels)) + labels.tobytes(),
    }
    for split in ("train", "t10k"):
        for name, content in contents.items():
            if compress:
                (folder / f"{split}-{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / f"{split}-{name}").write_bytes(content)
    return images, labels


@pytest.mark.parametrize("compress", [False, True])
def test_mnist_layout_is_read(tmp_path: Path, compress: bool) -> None:
    images, labels = write_mnist(tmp_path, compress)
    loaded = load_images("mnist", str(tmp_path), labels=True)
    assert loaded.shape == (1, 4, 4)
    torch.testing.assert_close(loaded.train, torch.tensor(images.reshape(40, 16)) / 127.5 - 1)
    for loaded_labels in (loaded.train_labels, loaded.held_out_labels):
        assert loaded_labels is not None
        assert loaded_labels.tolist() == labels.tolist()
    assert load_images("mnist", str(tmp_path)).train_labels is None


def test_labels_that_do_not_match_are_refused_by_name(tmp_path: Path) -> None:
    write_mnist(tmp_path, compress=False)
    path = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    good = path.read_bytes()
    for content, message in [
        (good[:-1], "39 labels, but its header says 40"),
        (good[:-1] + b"\x0a", "labels must be 0 to 9, but one is 10"),
        (b"\0\0\x08\x03" + good[4:], "this is not an idx1-ubyte file"),
        (struct.pack(">II", 0x801, 1) + b"\0", "40 train images, but 1 labels"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UsageError, match=message):
            load_images("mnist", str(tmp_path), labels=True)
    path.unlink()
    with pytest.raises(UsageError, match="train-labels-idx1-ubyte"):
        load_images("mnist", str(tmp_path), labels=True)


IDX = struct.pack(">IIII", 0x803, 2, 3, 3) + bytes(18)
BROKEN_IDX = {
    "short": IDX[:-1],
    "long": IDX + b"\0",
    "labels": b"\0\0\x08\x01" + IDX[4:],
    "header only": IDX[:15],
    "empty": b"",
    "oblong": struct.pack(">IIII", 0x803, 2, 3, 2) + bytes(12),
}


@pytest.mark.parametrize("case", BROKEN_IDX)
@pytest.mark.parametrize("compress", [False, True])
def test_broken_idx_files_are_refused_by_name(tmp_path: Path, case: str, compress: bool) -> None:
    path = tmp_path / ("images.gz" if compress else "images")
    content = BROKEN_IDX[case]
    path.write_bytes(gzip.compress(content)[: -3 if case == "short" else None] if compress else content)
    with pytest.raises(UsageError, match=str(path)):
        read_idx_images(path)


def test_real_mnist_is_read() -> None:
    root = Path(os.environ.get("SVGDX_MNIST_ROOT", Path(__file__).parents[3] / "shared" / "data"))
    if not (root / "MNIST" / "raw").is_dir():
        pytest.skip("no MNIST: set SVGDX_MNIST_ROOT to the folder that holds MNIST/raw")
    images = load_images("mnist", str(root), labels=True)
    assert images.shape == (1, 28, 28)
    assert images.train_labels is not None
    assert images.train_labels.unique().tolist() == list(range(10))
    assert images.train.min() == -1
    assert images.train.max() == 1


def test_digits_are_split_without_overlap() -> None:
    images = load_images("digits", None)
    assert images.train.shape == (1437, 64)
    assert images.held_out.shape == (360, 64)
    assert images.train.min() == -1
    assert images.train.max() == 1
    assert images.shape == (1, 8, 8)
    assert images.train_labels is not None
    assert len(images.train_labels) == 1437
    assert images.held_out_labels is not None
    assert images.held_out_labels.unique().tolist() == list(range(10))


def write_cifar10(root: Path, rows: int = 12) -> dict[str, dict[bytes, object]]:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    batches: dict[str, dict[bytes, object]] = {}
    for name in (*cifar10.TRAIN, *cifar10.HELD_OUT):
        pixels = generator.integers(0, 256, (rows, 3072), dtype=np.uint8)
        batches[name] = {b"batch_label": name.encode(), b"data": pixels, b"labels": [i % 10 for i in range(rows)]}
        (folder / name).write_bytes(pickle.dumps(batches[name], protocol=2))
    return batches


def test_cifar10_layout_is_read(tmp_path: Path) -> None:
    batches = write_cifar10(tmp_path)
    images = load_images("cifar10", str(tmp_path))
    assert images.shape == (3, 32, 32)
    assert images.train.shape == (60, 3072)
    assert images.held_out.shape == (12, 3072)
    pixels = torch.tensor(batches["data_batch_2"][b"data"])
    torch.testing.assert_close(images.train[12:24], pixels / 127.5 - 1)
    assert images.train_labels is not None
    assert images.train_labels[12:24].tolist() == batches["data_batch_2"][b"labels"]


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


def test_wrong_batches_are_refused_by_name_and_nothing_in_them_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = write_cifar10(tmp_path)["data_batch_3"]
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    content = path.read_bytes()
    cases = {
        "it refers to": pickle.dumps(good | {b"filenames": Harmful()}, protocol=2),
        "not a batch of CIFAR-10": content[:-50],
        "b'data' must be uint8": pickle.dumps(good | {b"data": np.zeros((12, 3071), np.uint8)}, protocol=2),
        "b'labels' must be 12 whole": pickle.dumps(good | {b"labels": [10] * 12}, protocol=2),
        "must hold a batch with b'data'": pickle.dumps([1, 2], protocol=2),
    }
    for message, wrong in cases.items():
        path.write_bytes(wrong)
        with pytest.raises(UsageError, match=rf"{path}.*{message}"):
            load_images("cifar10", str(tmp_path))
    assert not (tmp_path / "harm").exists()
    path.unlink()
    with pytest.raises(UsageError, match=str(path)):
        load_images("cifar10", str(tmp_path))


def test_patches_of_photographs_are_split_without_a_shared_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    # The value of a pixel encodes its picture, row and column.
    row, column = np.mgrid[:200, :256]
    pictures = [np.stack([np.full_like(row, index), row, column], -1).astype(np.uint8) for index in range(2)]
    monkeypatch.setattr(photographs, "photographs", lambda: pictures)
    splits = photographs.patches()
    places = []
    for pixels, labels in splits:
        assert set(labels) == {0, 1}
        images = pixels.reshape(-1, 3, 32, 32)
        assert (images[:, 0] == labels[:, None, None]).all()
        # Rows go down and columns go right, as in the picture.
        assert (np.diff(images[:, 1].astype(int), axis=1) == 1).all()
        assert (np.diff(images[:, 2].astype(int), axis=2) == 1).all()
        places.append(set(map(tuple, images.transpose(0, 2, 3, 1).reshape(-1, 3).tolist())))
    assert not places[0] & places[1]
    # Two pictures have 3 x 4 tiles of 64 x 64 pixels, and a tile has 25 patches.
    assert len(splits[0][0]) + len(splits[1][0]) == 2 * 12 * 25


def test_patches_are_of_real_photographs() -> None:
    images = load_images("patches", None)
    assert images.shape == (3, 32, 32)
    assert images.train.shape[1] == 3072
    assert len(images.train) > 3 * len(images.held_out) > 1000
    assert images.train.min() == -1
    assert images.train.max() == 1
    assert images.held_out_labels is not None
    assert images.held_out_labels.unique().tolist() == list(range(6))


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 20)
    with pytest.raises(UsageError, match=f"^{path}: cannot be read: .*invalid"):
        read_idx_images(path)
