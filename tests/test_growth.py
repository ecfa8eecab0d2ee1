"""Growth: what part of an ensemble finds, and what the whole one's z foretells of it."""

import pytest
import torch
from scipy import stats

from ddattr.attribution.power import expected_power
from ddattr.validation.growth import _power

Z = 3 + 1.5 * torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_what_is_found_has_z_beyond_the_one_sided_level():
    found = _power("nearest:5", Z, Z, 1.0, level=0.01)
    assert list(found) == ["z_nearest:5", "z_nearest:5_foretold", "found_nearest:5", "found_nearest:5_foretold"]
    assert found["z_nearest:5"] == found["z_nearest:5_foretold"] == pytest.approx(Z.mean().item())
    assert found["found_nearest:5"] == (stats.norm.sf(Z.numpy()) <= 0.01).mean()


def test_what_is_foretold_is_of_the_whole_ensemble_alone_and_grows_with_the_root_of_its_share():
    few, more = (_power("nearest", z, Z, 0.25, 0.05) for z in (0 * Z, Z))
    for name in ("z_nearest_foretold", "found_nearest_foretold"):
        assert few[name] == more[name]
    assert few["z_nearest_foretold"] == pytest.approx(Z.mean().item() / 2)
    assert few["found_nearest_foretold"] == expected_power(Z, 0.25)
    assert few["found_nearest"] == 0
