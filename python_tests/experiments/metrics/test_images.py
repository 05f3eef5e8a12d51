"""Distances of samples to held-out images: in the features of the small classifier, and FID by torch-fidelity."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from svgdx.experiments.data.images import Images, load_images
from svgdx.experiments.metrics import features
from svgdx.experiments.metrics.frechet import frechet_distance
from svgdx.experiments.metrics.images import ImageDistances, Inception
from svgdx.experiments.run.errors import UsageError


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", None, labels=True)


@pytest.fixture(scope="module")
def distance(images: Images) -> features.FeatureDistance:
    return features.train(images)


def test_the_classifier_classifies_held_out_digits(distance: features.FeatureDistance) -> None:
    assert distance.accuracy > 0.9


def test_training_is_deterministic_and_leaves_the_global_generator_alone(
    images: Images, distance: features.FeatureDistance
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = features.train(images)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again.reference, distance.reference)


def test_distance_is_that_of_the_features_and_grows_with_damage(
    images: Images, distance: features.FeatureDistance
) -> None:
    real = images.train[:400]
    undamaged = distance(real)
    expected = frechet_distance(distance.classifier.features(real), distance.classifier.features(images.held_out))
    assert undamaged == pytest.approx(expected, rel=1e-4)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(real.shape, generator=generator)
    by_noise = [distance(real + level * noise) for level in (0.3, 0.8, 3.0)]
    assert undamaged < by_noise[0] < by_noise[1] < by_noise[2]
    # Copies of one digit have realistic pixels but no variety.
    assert distance(real[:1].repeat(400, 1) + 0.01 * noise) > 5 * undamaged
    # Pixels beyond white count as white.
    assert distance(5 * real) == pytest.approx(distance((5 * real).clamp(-1, 1)))


def test_images_without_labels_are_refused(images: Images) -> None:
    with pytest.raises(ValueError, match="images must have labels"):
        features.train(Images(images.train, images.held_out, images.shape))


def test_every_distance_has_its_name(images: Images) -> None:
    distances = ImageDistances(images, "digits", None)
    measured = distances(images.train[:400])
    assert measured.keys() == {"pixel_distance", "feature_distance"}
    assert measured["pixel_distance"] == pytest.approx(frechet_distance(images.train[:400], images.held_out))


def colour(count: int = 30) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, 3 * 32 * 32, generator=generator) * 2 - 1
    return Images(pixels, pixels[: count // 2], (3, 32, 32))


def test_fid_is_refused_without_torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UsageError, match=r"svgdx\[fid\]"):
        Inception(Path("weights.pth"), colour())


@pytest.mark.slow
def test_fid_by_torch_fidelity(tmp_path: Path, images: Images) -> None:
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.raises(UsageError, match=r"needs colour images, but their shape is \(1, 8, 8\)"):
        Inception(tmp_path / "none.pth", images)
    with pytest.raises(UsageError, match=str(tmp_path / "none.pth")):
        Inception(tmp_path / "none.pth", colour())
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UsageError, match=str(tmp_path / "text.pth")):
        Inception(tmp_path / "text.pth", colour())
    # The weights are random: this tests how they are read and used, not the value of FID.
    torch.manual_seed(0)
    network = object.__new__(extractor.FeatureExtractorInceptionV3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractor.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        patch.setattr(extractor, "load_state_dict_from_url", lambda *_, **__: None)
        network.__init__("inception-v3-compat", ["2048"])
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            # Activations keep their size through 94 layers.
            torch.nn.init.kaiming_normal_(layer.weight)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    real = colour()
    inception = Inception(tmp_path / "weights.pth", real)
    same, other = inception.fid(real.held_out), inception.fid(torch.zeros(15, 3072))
    assert abs(same) < 1e-2 * other
