"""The feature extractor: decided by seed and data, frozen, and named for what it is."""

import pytest
import torch

from ddattr.data.sources.digits import digits
from ddattr.data.sources.first import first
from ddattr.ensemble.extractor import FeatureExtractor, describe, train_extractor


def same(a: FeatureExtractor, b: FeatureExtractor) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_same_seed_and_data_give_the_same_extractor():
    images, labels, *_ = first(digits(), 50)
    one = train_extractor(images, labels, 0, 5)
    torch.rand(100)
    assert same(train_extractor(images, labels, 0, 5), one)
    assert not same(train_extractor(images, labels, 1, 5), one)
    assert not same(train_extractor(-images, labels, 0, 5), one)


def test_training_draws_nothing_from_the_global_stream():
    images, labels, *_ = first(digits(), 50)
    before = torch.get_rng_state()
    train_extractor(images, labels, 0, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_frozen_and_in_evaluation_mode():
    extractor = train_extractor(*first(digits(), 50)[:2], 0, 2)
    assert not extractor.training
    assert not any(parameter.requires_grad for parameter in extractor.parameters())


def test_labels_are_learnt_beyond_chance():
    """Chance is 0.1; on other digits than it was trained on."""
    images, labels, *_ = digits()
    extractor = train_extractor(images[:800], labels[:800], 0, 150)
    guess = extractor.head(extractor(images[800:])).argmax(1)
    assert (guess == labels[800:]).float().mean() > 0.6


def test_without_labels_it_learns_quarter_turns_beyond_chance():
    """Chance is 0.25."""
    images = digits().images
    extractor = train_extractor(images[:800], None, 0, 150)
    assert extractor.head.out_features == 4
    right = [
        (extractor.head(extractor(torch.rot90(images[800:], k, (2, 3)))).argmax(1) == k).float().mean()
        for k in range(4)
    ]
    assert sum(right) / 4 > 0.5


@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (28, 20)), (1, (5, 7))])
def test_features_have_their_number_whatever_the_picture(channels, size):
    extractor = FeatureExtractor(channels, size, classes=2, features=9)
    features = extractor(torch.zeros(4, channels, *size))
    assert features.shape == (4, 9)
    assert extractor.num_features == 9
    assert (features.abs() <= 1).all()


def test_it_is_named_for_what_it_is():
    assert describe(torch.zeros(1, dtype=torch.long)) != describe(None)
    assert "labels" in describe(torch.zeros(1, dtype=torch.long))
    assert "rotations" in describe(None)
