"""Functionals of pictures: what each is, whose score it gives, and what is refused."""

import numpy as np
import pytest
import torch
from conftest import shapes
from PIL import Image

from ddattr.attribution.adjoint import adjoint, differentiated
from ddattr.attribution.functional import Logit, Region, Similarity
from ddattr.attribution.influence import projections, pull
from ddattr.attribution.jacobian import jacobian
from ddattr.data.datamodule import UnitDataModule
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.sampler import DDPM
from ddattr.ensemble.extractor import FeatureExtractor, train_extractor

UNTRAINED = FeatureExtractor(1, (8, 8), 10)


def drawn(path, pixels) -> str:
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)
    return str(path)


def file_of(path, picture) -> str:
    return drawn(path, ((picture[0] + 1) * 127.5).round())


@pytest.fixture
def pictures():
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_similarity_to_a_units_picture_gives_the_first_orders_pull_of_that_unit(unets, process, data, tmp_path):
    """Its derivative is along the direction to the picture, which the unit has to 8 bits."""
    reverse, tape = DDPM(4).reverse(process), noise_tape([1, 2], 4, (1, 8, 8))
    wanted = Similarity(data, file_of(tmp_path / "unit.png", data.unit_pictures[[5]][0]))
    assert str(wanted) == "similarity to unit.png"
    codeword = torch.tensor([[True, False, True]])
    picture, response = jacobian(unets, tape, reverse)
    expected = pull(projections(response, picture, wanted.target[None]), codeword)
    found = pull(adjoint(unets, tape, reverse, wanted).response[:, None], codeword)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_picture_is_nowhere_more_similar_than_to_itself_and_has_no_slope_there(data, tmp_path):
    wanted = Similarity(data, file_of(tmp_path / "a.png", data.images[[3]][0]))
    pictures = torch.cat([data.images[torch.arange(12)], wanted.target[None]])
    value, slope = differentiated(wanted, pictures)
    assert (value[12].item(), value[:12].argmax().item()) == (0, 3)
    assert torch.equal(slope[12], torch.zeros(1, 8, 8))
    assert (slope[:12].flatten(1).norm(dim=1) - 1).abs().max() < 1e-5


def test_a_region_is_the_mean_of_its_pixels_and_owes_nothing_to_others(data, pictures, tmp_path):
    rectangle = Region(data, box=[1, 2, 3, 4])
    value, slope = differentiated(rectangle, pictures)
    torch.testing.assert_close(value, pictures[:, 0, 1:4, 2:6].mean((1, 2)))
    expected = torch.zeros(3, 1, 8, 8)
    expected[:, :, 1:4, 2:6] = 1 / 12
    torch.testing.assert_close(slope, expected)
    assert str(rectangle) == "brightness of rows 1 to 3, columns 2 to 5"
    pixels = np.zeros((8, 8))
    pixels[1:4, 2:6] = 255
    mask = Region(data, mask=drawn(tmp_path / "mask.png", pixels))
    torch.testing.assert_close(mask(pictures), value)


def test_a_logit_is_the_classifiers_own(data, pictures):
    classifier = train_extractor(data.images, data.labels, seed=0, steps=5)
    for label in (3, "7"):
        wanted = Logit(data, classifier, label)
        value, slope = differentiated(wanted, pictures.double())
        torch.testing.assert_close(value.float(), classifier.head(classifier(pictures))[:, int(label)])
        assert (slope.flatten(1).norm(dim=1) > 0).all()
    assert str(wanted) == "logit of 7"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda data: Similarity(data), "picture=null, expected a picture's file"),
        (lambda data: Similarity(data, "no.png"), "picture=no.png is missing"),
        (lambda data: Similarity(data, "large.png"), "picture=large.png .* it is 9 x 8 pixels, expected 8 x 8"),
        (lambda data: Similarity(data, "text.png"), "picture=text.png .* it is no picture"),
        (lambda data: Region(data), "box and mask, expected one of them"),
        (lambda data: Region(data, [0, 0, 2, 2], "dark.png"), "box and mask, expected one of them"),
        (lambda data: Region(data, [0, 0, 9, 1]), r"box=\[0, 0, 9, 1\], expected .* inside 8 x 8 pixels"),
        (lambda data: Region(data, [7, 7, 1, 2]), "box=.*, expected .* inside 8 x 8 pixels"),
        (lambda data: Region(data, [-1, 0, 2, 2]), "box=.*, expected .* inside 8 x 8 pixels"),
        (lambda data: Region(data, [0, 0, 0, 2]), "box=.*, expected .* inside 8 x 8 pixels"),
        (lambda data: Region(data, [0, 0, 2]), "box=.*, expected .* inside 8 x 8 pixels"),
        (lambda data: Region(data, mask="dark.png"), "mask=dark.png is dark"),
        (lambda data: Region(data, mask="large.png"), "mask=large.png .* expected 8 x 8, as the data is"),
        (lambda data: Logit(data, UNTRAINED, "x"), "label=x, expected one of 0, 1, 2"),
        (lambda data: Logit(data, UNTRAINED), "label=null, expected one of 0, 1, 2"),
    ],
)
def test_what_cannot_be_asked_is_refused(data, tmp_path, monkeypatch, make, words):
    monkeypatch.chdir(tmp_path)
    drawn("large.png", np.full((8, 9), 255))
    drawn("dark.png", np.full((8, 8), 90))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises((ValueError, FileNotFoundError), match=f"functional: {words}"):
        make(data)


def test_data_without_labels_have_no_logit():
    with pytest.raises(ValueError, match="the data has no labels"):
        Logit(UnitDataModule(shapes()), UNTRAINED, "3")
