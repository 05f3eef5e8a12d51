"""32x32 colour patches of the photographs that come with scikit-learn and scikit-image."""

from __future__ import annotations

import numpy as np

SIDE = 32
# A photograph is cut into tiles. A tile is training or held-out data as a whole, so the splits share no pixel.
TILE = 64
STRIDE = 8
HELD_OUT_SHARE = 5


def photographs() -> list[np.ndarray]:
    """Six photographs (height, width, 3), uint8: a temple, a flower, an astronaut, coffee, a cat and a rocket.

    They are installed with the packages; nothing is downloaded.
    """
    from skimage import data
    from sklearn.datasets import load_sample_image

    pictures = [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    return [*pictures, data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]


def patches() -> list[tuple[np.ndarray, np.ndarray]]:
    """The training and the held-out split as (pixels, photographs).

    Patches start every STRIDE pixels and overlap within their TILE x TILE tile. One tile in HELD_OUT_SHARE is held
    out. The order is shuffled in the same way in every run.

    Returns:
        For each split, pixels (N, 3 * 32 * 32) uint8, channels first, and the index of each patch's photograph, (N,).
    """
    splits: dict[bool, list[tuple[np.ndarray, int]]] = {False: [], True: []}
    for index, picture in enumerate(photographs()):
        for row in range(picture.shape[0] // TILE):
            for column in range(picture.shape[1] // TILE):
                tile = picture[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
                # This lattice takes tiles from every row and column.
                held_out = (row + 2 * column) % HELD_OUT_SHARE == 0
                splits[held_out] += [(patch, index) for patch in _cut(tile)]
    return [_shuffled(splits[False]), _shuffled(splits[True])]


def _cut(tile: np.ndarray) -> list[np.ndarray]:
    starts = range(0, TILE - SIDE + 1, STRIDE)
    return [tile[top : top + SIDE, left : left + SIDE] for top in starts for left in starts]


def _shuffled(split: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(0).permutation(len(split))
    pixels = np.stack([split[i][0] for i in order]).transpose(0, 3, 1, 2)
    return pixels.reshape(len(split), -1), np.array([split[i][1] for i in order])
