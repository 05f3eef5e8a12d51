"""Distances of samples to held-out images: in pixels, in the features of a small classifier, and FID."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svgdx.experiments.data.images import Images, load_images
from svgdx.experiments.metrics import features
from svgdx.experiments.metrics.frechet import frechet_distance
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.figures import write_sample_grid

# In more dimensions the covariance of a few hundred samples is singular, and its square root takes minutes.
MOST_PIXELS = 1024
_LAYER = "2048"
# Trained once per process for each data set and its folder.
_classifiers: dict[tuple[str, str | None], features.FeatureDistance] = {}


class ImageDistances:
    """The distances that an evaluation measures, by the name under which they are logged.

    - pixel_distance: Fréchet distance in pixels, for images of up to MOST_PIXELS of them.
    - feature_distance: Fréchet distance in the features of a classifier trained on the same data; it is not FID.
    - fid: Fréchet Inception distance by torch-fidelity, if its weights are there.

    Args:
        images: the data set.
        name: its name, see :func:`svgdx.experiments.data.images.load_images`.
        root: its folder.
        inception_weights: file of torch-fidelity's Inception weights; None measures no FID.
        device: where Inception computes.

    Raises:
        UsageError: torch-fidelity or its weights are missing.
    """

    headline = "feature_distance"

    def __init__(
        self,
        images: Images,
        name: str,
        root: str | None,
        inception_weights: str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.images, self._source = images, (name, root)
        self.inception = None if inception_weights is None else Inception(Path(inception_weights), images, device)

    def features(self, check_stop: Callable[[], None] = lambda: None) -> features.FeatureDistance:
        """The distance in features, trained on first use, so that a rank that does not evaluate never trains it.

        check_stop is called between the updates of the classifier and may raise.
        """
        if self._source not in _classifiers:
            name, root = self._source
            _classifiers[self._source] = features.train(load_images(name, root, labels=True), check_stop)
        return _classifiers[self._source]

    def __call__(self, samples: Tensor, check_stop: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Each distance of samples (N, D) to the held-out images; check_stop is called between stages and may raise."""
        distances = {}
        if samples.shape[1] <= MOST_PIXELS:
            distances["pixel_distance"] = frechet_distance(samples, self.images.held_out)
            check_stop()
        distances["feature_distance"] = self.features(check_stop)(samples)
        if self.inception:
            check_stop()
            distances["fid"] = self.inception.fid(samples)
        return distances

    def draw(self, samples: Tensor, *paths: Path) -> None:
        """Writes the first 64 samples (N, D) as PNG to each path."""
        write_sample_grid(samples, self.images.shape, *paths)


class Inception:
    """FID to the held-out images, by torch-fidelity.

    Args:
        weights: file of torch-fidelity's Inception weights, weights-inception-2015-12-05-6726825d.pth.
        images: colour images.
        device: where Inception computes.

    Raises:
        UsageError: torch-fidelity is not installed, the images are not in colour, or the file holds other content.

    Source: Heusel et al., NeurIPS 2017; Obukhov et al., torch-fidelity.
    """

    def __init__(self, weights: Path, images: Images, device: torch.device | str = "cpu") -> None:
        try:
            from torch_fidelity import metric_fid
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ModuleNotFoundError as error:
            raise UsageError("--inception-weights: FID needs torch-fidelity: pip install 'svgdx[fid]'") from error
        if images.shape[0] != 3:
            raise UsageError(f"--inception-weights: FID needs colour images, but their shape is {images.shape}")
        try:
            # torch-fidelity unpickles the file unchecked, so check first that it holds nothing but tensors.
            torch.load(weights, weights_only=True)
            extract = FeatureExtractorInceptionV3("inception-v3-compat", [_LAYER], str(weights))
        except (OSError, RuntimeError, EOFError, AttributeError, pickle.UnpicklingError) as error:
            raise UsageError(
                f"--inception-weights: {weights} is not a valid Inception weights file: {error}"
            ) from error
        self._extract, self._device = extract.to(device), device
        self._shape, self._fid = images.shape, metric_fid
        self._reference = self._statistics(images.held_out)

    def fid(self, samples: Tensor) -> float:
        """FID of samples (N, D)."""
        metrics = self._fid.fid_statistics_to_metric(self._statistics(samples), self._reference, verbose=False)
        return float(metrics[self._fid.KEY_METRIC_FID])

    @torch.no_grad()
    def _statistics(self, images: Tensor) -> Any:
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).view(-1, *self._shape)
        outputs = [self._extract(batch.to(self._device))[0].cpu() for batch in pixels.split(50)]
        return self._fid.fid_features_to_statistics(torch.cat(outputs))
