"""Large sets: their sums make the score and z of all units at once, and very nearly the saddlepoint's p."""

import pytest
import torch

from ddattr.attribution.significance import set_significance
from ddattr.attribution.sums import summed_significance
from ddattr.codebook import Codebook

CODE = Codebook(4000, 64, 28)
UNITS = torch.arange(2048)


def answers(kind: str, effect: float) -> torch.Tensor:
    """(n, units, 2) along units that all move the first query by an effect, and the second by none."""
    drawn = torch.randn(64, len(UNITS), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = {"normal": drawn, "lognormal": drawn.exp(), "outlier": drawn + 10.0 * (torch.arange(64) == 0)[:, None, None]}
    return made[kind] + effect * CODE.codewords(UNITS).T[:, :, None] * torch.tensor([1.0, 0.0])


@pytest.mark.parametrize("kind", ["normal", "lognormal", "outlier"])
@pytest.mark.parametrize("effect", [-0.01, 0.0, 0.01, 0.02])
def test_score_and_z_are_those_of_all_units_at_once_and_p_nearly_the_saddlepoint_s(kind, effect):
    said = answers(kind, effect)
    blocks = [(CODE.codewords(part), said[:, part]) for part in UNITS.split(700)]
    total, z, p = summed_significance(blocks, CODE)
    wanted = [of[0] for of in set_significance(UNITS[None, None].expand(1, 2, -1), said.movedim(2, 1)[:, None], CODE)]
    torch.testing.assert_close(total, wanted[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(z, wanted[1], rtol=1e-9, atol=1e-9)
    assert (wanted[2] > 1e-6).all()  # below, the two part further
    torch.testing.assert_close(p, wanted[2], rtol=0.03, atol=0)


def test_skewness_takes_most_of_what_a_normal_tail_misses():
    """Of lognormal answers, whose score is skewed to the right: a bare normal tail is far too short."""
    said = answers("lognormal", 0.06)
    _, z, p = summed_significance([(CODE.codewords(UNITS), said)], CODE)
    wanted = set_significance(UNITS[None, None].expand(1, 2, -1), said.movedim(2, 1)[:, None], CODE)[2][0]
    assert z[0] > 2
    assert abs(torch.special.ndtr(-z[0]) / wanted[0] - 1) > 3 * abs(p[0] / wanted[0] - 1)


def test_of_answers_that_do_not_vary_p_is_1():
    total, z, p = summed_significance(
        [(CODE.codewords(UNITS), torch.zeros(64, len(UNITS), 2, dtype=torch.float64))], CODE
    )
    assert total.tolist() == z.tolist() == [0, 0]
    assert p.tolist() == [1, 1]
