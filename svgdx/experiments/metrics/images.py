"""Distances of samples to held-out images: in pixels, in features of a classifier trained here, and FID."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svgdx.experiments.data import images as data
from svgdx.experiments.metrics import features
from svgdx.experiments.metrics.frechet import frechet_distance
from svgdx.experiments.run.errors import UsageError

# In more dimensions the covariances of a few hundred samples are singular, and their roots take minutes.
MOST_PIXELS = 1024
_LAYER = "2048"


class ImageDistances:
    """What an evaluation measures, by the name it is logged under.

    pixel_distance: Fréchet distance of the pixels themselves, up to MOST_PIXELS of them.
    feature_distance: Fréchet distance in the features of a classifier trained here on the same data, not FID.
    fid: Fréchet Inception distance by torch-fidelity; where `inception_weights` names the file of its weights.

    Raises:
        UsageError: FID is asked for, and torch-fidelity or its weights are missing.
    """

    def __init__(self, images: data.Images, name: str, root: str | None, inception_weights: str | None = None) -> None:
        self.images, self._source = images, (name, root)
        self.inception = None if inception_weights is None else Inception(Path(inception_weights), images)

    @property
    def features(self) -> features.FeatureDistance:
        """Made when first asked for: a rank that does not evaluate never trains it."""
        return _classifier(*self._source)

    def __call__(self, samples: Tensor, check_stop: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Each distance of samples (N, D) to the held-out images; check_stop is called between them and may raise."""
        distances = {}
        if samples.shape[1] <= MOST_PIXELS:
            distances["pixel_distance"] = frechet_distance(samples, self.images.held_out)
            check_stop()
        distances["feature_distance"] = self.features(samples)
        if self.inception:
            check_stop()
            distances["fid"] = self.inception.fid(samples)
        return distances


@functools.cache
def _classifier(name: str, root: str | None) -> features.FeatureDistance:
    """Trained once for each data set and process."""
    return features.train(data.load(name, root, labels=True))


class Inception:
    """FID to the held-out images, by torch-fidelity.

    Args:
        weights: file of torch-fidelity's Inception weights, weights-inception-2015-12-05-6726825d.pth.
        images: colour images.

    Raises:
        UsageError: torch-fidelity is not installed, the images are not in colour, or the file is not its weights.

    Source: Heusel et al., NeurIPS 2017; Obukhov et al., torch-fidelity.
    """

    def __init__(self, weights: Path, images: data.Images) -> None:
        try:
            from torch_fidelity import metric_fid
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ModuleNotFoundError as error:
            raise UsageError("--inception-weights: FID needs torch-fidelity: pip install 'svgdx[fid]'") from error
        if images.shape[0] != 3:
            raise UsageError(f"--inception-weights: FID is of colour images, but these are {images.shape}")
        try:
            # torch-fidelity unpickles the file without looking; here it is seen to hold tensors alone.
            torch.load(weights, weights_only=True)
            self._extract = FeatureExtractorInceptionV3("inception-v3-compat", [_LAYER], str(weights))
        except (OSError, RuntimeError, EOFError, AttributeError, pickle.UnpicklingError) as error:
            raise UsageError(f"--inception-weights: {weights} no weights of Inception: {error}") from error
        self._shape, self._fid = images.shape, metric_fid
        self._reference = self._statistics(images.held_out)

    def fid(self, samples: Tensor) -> float:
        """FID of samples (N, D)."""
        found = self._fid.fid_statistics_to_metric(self._statistics(samples), self._reference, verbose=False)
        return float(found[self._fid.KEY_METRIC_FID])

    @torch.no_grad()
    def _statistics(self, images: Tensor) -> Any:
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).view(-1, *self._shape)
        return self._fid.fid_features_to_statistics(torch.cat([self._extract(part)[0] for part in pixels.split(50)]))
