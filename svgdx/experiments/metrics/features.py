"""The Fréchet distance of images in the features of a small classifier that is trained here. It is not FID."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from svgdx.experiments.data.images import Images
from svgdx.experiments.metrics.frechet import frechet_distance
from svgdx.experiments.run.compute.generators import seeded

# The classifier does not depend on the seed of the run, so that distances of all runs on one data set compare.
SEED = 0
UPDATES = 300
BATCH = 64
LEARNING_RATE = 4e-3
FEATURES = 64


class Classifier(nn.Module):
    """Two 3x3 convolutions with 2x2 averages, a layer of FEATURES units, and a score for each class."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.Sequential(
            nn.Conv2d(shape[0], 16, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (shape[1] // 4) * (shape[2] // 4), FEATURES),
            nn.SiLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def features(self, x: Tensor) -> Tensor:
        """Values of the last layer but one: (N, D) -> (N, FEATURES)."""
        features: Tensor = self.layers(x.reshape(-1, *self.shape))
        return features

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(x))
        return scores


@dataclass
class FeatureDistance:
    """Fréchet distance to a set of images, in the features of a classifier that is trained here.

    Attributes:
        classifier: the classifier.
        reference: features of the images to which distances are measured, (K, FEATURES).
        accuracy: fraction of the held-out images that it classifies correctly.
    """

    classifier: Classifier
    reference: Tensor
    accuracy: float

    @torch.no_grad()
    def __call__(self, samples: Tensor) -> float:
        """Squared Fréchet distance of samples (N, D), clipped to [-1, 1], in squared units of the features.

        It is not FID, which uses the features of Inception v3 trained on ImageNet. It compares only samples of the same
        data set. The classifier is on the CPU, so that it is the same for runs on every device.
        """
        return frechet_distance(_features(self.classifier, samples.cpu().clamp(-1, 1)), self.reference)


@torch.no_grad()
def _features(classifier: Classifier, images: Tensor) -> Tensor:
    return torch.cat([classifier.features(batch) for batch in images.split(500)])


def train(images: Images, check_stop: Callable[[], None] = lambda: None) -> FeatureDistance:
    """Trains the classifier on the labels of the training images; distances are to the held-out images.

    check_stop is called between the updates and may raise.

    Raises:
        ValueError: the images have no labels.
    """
    labels, held_out_labels = images.train_labels, images.held_out_labels
    if labels is None or held_out_labels is None:
        raise ValueError("features.train: images must have labels, but have none")
    generator = torch.Generator().manual_seed(SEED)
    with seeded(SEED):
        classifier = Classifier(images.shape, int(labels.max()) + 1)
    adam = torch.optim.Adam(classifier.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, UPDATES)
    for _ in range(UPDATES):
        check_stop()
        rows = torch.randint(len(labels), (BATCH,), generator=generator)
        loss = functional.cross_entropy(classifier(images.train[rows]), labels[rows])
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    classifier.requires_grad_(False)
    correct = sum(
        int((classifier(batch).argmax(-1) == classes).sum())
        for batch, classes in zip(images.held_out.split(500), held_out_labels.split(500), strict=True)
    )
    reference = _features(classifier, images.held_out)
    return FeatureDistance(classifier, reference, correct / len(images.held_out))
