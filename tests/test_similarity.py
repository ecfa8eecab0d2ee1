"""By what pictures are alike: pixels, the features of a module in a file, or of a run's extractor."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ddattr.data.datamodule import UnitDataModule
from ddattr.data.similarity import PIXELS, is_small, means, of_file
from ddattr.data.source import Source
from ddattr.data.sources.digits import digits
from ddattr.data.sources.first import first
from ddattr.ensemble.extractor import restored, train_extractor

SHAPE = (1, 8, 8)


@pytest.fixture
def source() -> Source:
    return first(digits(), 40)


def scripted(path, module: nn.Module) -> str:
    torch.jit.script(module).save(str(path))
    return str(path)


class Flat(nn.Module):
    """Pixels, thrice as far apart."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return 3 * pictures.flatten(1)


class Whole(nn.Module):
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures


def test_a_module_of_a_file_embeds_as_it_does(tmp_path, source):
    path = scripted(tmp_path / "flat.pt", Flat())
    found = of_file(path, SHAPE)
    assert found.name == "features of flat.pt"
    assert torch.equal(found.points(source.images), 3 * source.images.flatten(1))
    queries = source.images[:5] * 2  # clipped as they are shown
    torch.testing.assert_close(
        found.distance(found.points(source.images), queries), 3 * PIXELS.distance(PIXELS.points(source.images), queries)
    )


def test_data_are_compared_by_the_module_that_is_named(tmp_path, source):
    """Scaling all distances changes no cluster."""
    path = scripted(tmp_path / "flat.pt", Flat())
    by_module, by_pixels = (
        UnitDataModule(source, "cluster", 7, similarity=similarity) for similarity in (path, "pixels")
    )
    assert torch.equal(by_module.unit_of, by_pixels.unit_of)
    assert by_module.similarity.name == by_module.compared_name == "features of flat.pt"
    torch.testing.assert_close(by_module.unit_points, 3 * by_pixels.unit_points)


def test_a_run_s_extractor_is_taken_by_its_weights(tmp_path, source):
    extractor = train_extractor(source.images, source.labels, 0, 5)
    path = str(tmp_path / "extractor.safetensors")
    save_file(extractor.state_dict(), path)
    found = of_file(path, SHAPE, restored)
    assert torch.equal(found.points(source.images), extractor(source.images))
    assert found.name == "features of extractor.safetensors"
    data = UnitDataModule(source, "cluster", 7, similarity=path, restore=restored)
    own = UnitDataModule(source, "cluster", 7, similarity="features", extractor=lambda images, labels: extractor)
    assert torch.equal(data.unit_of, own.unit_of)


@pytest.mark.parametrize("similarity", ["pixels", "features", None])
def test_what_compares_has_its_name_before_it_is_trained(source, similarity):
    data = UnitDataModule(source, similarity=similarity, extractor=lambda *_: nn.Flatten())
    assert data.compared_name == data.similarity.name
    assert data.compared_name == ("features of the run's extractor" if similarity == "features" else "pixels")


def test_a_file_that_is_missing_or_no_module_is_refused_at_the_door(tmp_path, source):
    with pytest.raises(
        FileNotFoundError, match=r"^data: similarity=pixel, expected pixels, features, or a module's file"
    ):
        UnitDataModule(source, similarity="pixel")
    for name in ("x.pt", "x.safetensors"):
        (tmp_path / name).write_bytes(b"no module")
        with pytest.raises(ValueError, match=r"^data: .*x\.\w+ is no module of pictures of 1 x 8 x 8: [^\n]*$"):
            UnitDataModule(source, similarity=str(tmp_path / name), restore=restored)


def test_weights_of_another_network_or_size_are_refused(tmp_path, source):
    path = str(tmp_path / "x.safetensors")
    for weights in (nn.Linear(3, 3).state_dict(), train_extractor(torch.zeros(4, 3, 8, 8), None, 0, 1).state_dict()):
        save_file(weights, path)
        with pytest.raises(ValueError, match=r"^data: .*x\.safetensors is no module of pictures of 1 x 8 x 8: [^\n]*$"):
            of_file(path, SHAPE, restored)
    save_file(train_extractor(torch.zeros(4, 1, 16, 16), None, 0, 1).state_dict(), path)
    with pytest.raises(ValueError, match=r"is no module of pictures of 1 x 8 x 8"):
        of_file(path, SHAPE, restored)


def test_a_module_of_other_output_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"makes \(2, 1, 8, 8\) of 2 pictures, expected \(2, features\)"):
        of_file(scripted(tmp_path / "x.pt", Whole()), SHAPE)
    with pytest.raises(ValueError, match=r"is no module of pictures of 1 x 8 x 8"):
        of_file(scripted(tmp_path / "x.pt", nn.Linear(5, 5)), SHAPE)


def test_a_unit_is_where_its_pictures_are_on_average():
    points, units = torch.tensor([[0.0, 2], [4, 4], [2, 0]]), torch.tensor([0, 1, 0])
    assert means(points, units).tolist() == [[1, 1], [4, 4]]


@pytest.mark.parametrize(("shape", "small"), [((1, 8, 8), True), ((3, 15, 64), True), ((3, 16, 16), False)])
def test_below_16_pixels_pictures_are_compared_by_pixels(shape, small):
    assert is_small(shape) == small
    data = UnitDataModule(Source(torch.zeros(3, *shape), None), extractor=lambda *_: nn.Flatten())
    assert data.compared_by == ("pixels" if small else "features")
    assert UnitDataModule(Source(torch.zeros(3, *shape), None)).compared_by == "pixels"
