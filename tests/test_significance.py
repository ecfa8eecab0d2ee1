"""Significance: exact by design, so small codes are enumerated and nothing is approximate but what says so."""

import itertools

import pytest
import torch
from scipy import stats

from ddattr.attribution.influence import norm, pull
from ddattr.attribution.loss import loss_change
from ddattr.attribution.significance import (
    TestSettings,
    benjamini_hochberg,
    norm_significance,
    null_deviation,
    pull_significance,
    radius_significance,
    resolution,
    set_significance,
)
from ddattr.attribution.tails import counted
from ddattr.codebook import Codebook, contrast

SMALL = Codebook(3, 6, 2)  # 15 codewords, 12 of them phantoms


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def units_of(codebook: Codebook) -> torch.Tensor:
    return codebook.codewords(torch.arange(codebook.units))


def phantoms_of(codebook: Codebook) -> torch.Tensor:
    return codebook.phantom_codewords(torch.arange(codebook.phantoms))


def codewords_of(codebook: Codebook) -> torch.Tensor:
    return torch.cat([units_of(codebook), phantoms_of(codebook)])


def as_every_unit(codewords: torch.Tensor, projected: torch.Tensor) -> torch.Tensor:
    """`pull` of codewords on one direction, projected (n, q)."""
    return pull(projected[:, None].expand(-1, len(codewords), -1), codewords)


@pytest.mark.parametrize(("members", "weight"), [(5, 1), (6, 2), (6, 3), (9, 4), (8, 7)])
def test_the_null_of_pull_has_mean_0_and_the_stated_deviation(members, weight):
    """Over all codewords, enumerated; to the float32 rounding of the contrasts."""
    codebook, projected = Codebook(1, members, weight), randn(members, 2)
    null = as_every_unit(codewords_of(codebook), projected)
    deviation = null_deviation(projected[:, None], units_of(codebook))[0]
    torch.testing.assert_close(null.mean(0) / deviation, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(null.std(0, correction=0), deviation, rtol=1e-6, atol=0)


@pytest.mark.parametrize("seen", [1, 3, 6])
def test_the_null_is_over_codewords_of_as_many_ones_as_the_unit_s(seen):
    """Of some members of an ensemble more saw one unit than another: all ways for as many are tried."""
    answers, held = randn(7, 2, 3), torch.zeros(2, 7, dtype=torch.bool)
    held[0, :seen], held[1, -2:] = True, True
    deviation = null_deviation(answers, held)
    for unit, ones in enumerate((seen, 2)):
        chosen = itertools.combinations(range(7), ones)
        codewords = torch.stack([torch.tensor([k in those for k in range(7)]) for those in chosen])
        null = as_every_unit(codewords, answers[:, unit])
        torch.testing.assert_close(deviation[unit], null.std(0, correction=0), rtol=1e-6, atol=0)


def test_codewords_may_be_of_each_query_s_own_units():
    """The best of every query, say: each column is as it would be alone."""
    answers, held = randn(6, 2, 3), torch.tensor([[0, 1, 2], [2, 0, 1]])
    codewords = units_of(SMALL)[held].clone()  # (units, queries, members)
    codewords[0, 1] = torch.tensor([True] * 3 + [False] * 3)  # of another weight than the others
    deviation = null_deviation(answers, codewords)
    for q in range(3):
        torch.testing.assert_close(null_deviation(answers[..., [q]], codewords[:, q]), deviation[:, [q]])
    assert deviation[0, 1] != null_deviation(answers, units_of(SMALL)[held])[0, 1]
    codewords = units_of(SMALL)[held]
    z, p = pull_significance(answers, codewords, units_of(SMALL))
    for q in range(3):
        found = pull_significance(answers[..., [q]], codewords[:, q], units_of(SMALL))
        torch.testing.assert_close(torch.stack(found), torch.stack([z[:, [q]], p[:, [q]]]))


@pytest.mark.parametrize("n", [12, 24])  # counted, and by the saddlepoint
def test_of_no_unit_there_is_nothing_to_test(n):
    held = Codebook(5, n, 4).codewords(torch.arange(5))
    for found in pull_significance(torch.zeros(n, 0, 3), held[:0], held):
        assert found.shape == (0, 3)


@pytest.mark.parametrize("measure", ["pull", "norm", "loss"])
def test_p_takes_every_rank_once_over_the_codewords_that_a_unit_could_hold(measure):
    """Exchangeability: under the null a unit's p is uniform on 1/C, 2/C, ..., 1; exact, without ties."""
    codewords = codewords_of(SMALL)
    if measure == "pull":
        taken, p = codewords[:4], []  # by other units
        for held in range(4, 15):
            all_units = torch.cat([codewords[held, None], taken])
            p.append(pull_significance(randn(6, 1)[:, None], codewords[held, None], all_units)[1].item())
        torch.testing.assert_close(torch.tensor(p).sort().values, torch.arange(1, 12) / 11)
        return
    response = randn(1, 6, 9)
    score = (norm if measure == "norm" else loss_change)(response @ response.mT, codewords)
    p = [norm_significance(score[held, None], score[torch.arange(15) != held])[1].item() for held in range(15)]
    torch.testing.assert_close(torch.tensor(p).sort().values, torch.arange(1, 16) / 15)


def test_what_others_hold_is_covered_whichever_it_is(monkeypatch):
    """20,000 of 43,758 codewords are held: p is the tail over all, times C / (C - N + 1), 1.84; counted, within 5 %."""
    monkeypatch.setattr("ddattr.attribution.significance.COUNTED", 0)
    code, answers = Codebook(20_000, 18, 8), randn(18, 50, 1)
    codewords = units_of(code)
    _, p = pull_significance(answers, codewords[:50], codewords)
    sums = torch.einsum("un,nuq->u", codewords[:50].double(), answers)
    share = counted(answers[..., 0], sums - 1e-9, 8).double() / (code.capacity - 19_999)
    some = (share > 0.05) & (share < 0.9)
    assert some.sum() > 15
    torch.testing.assert_close(p[some, 0], share[some], rtol=0.05, atol=0)


def test_no_p_is_less_than_that_of_one_codeword():
    """The largest score there is, of 64 members: its own codeword reaches it."""
    code = Codebook(50, 64, 28)
    answers = units_of(code).double().T[..., None] + 0.3 * randn(64, 50, 1).abs()
    _, p = pull_significance(answers, units_of(code), units_of(code))
    assert (p >= 1 / code.capacity).all()
    assert (p < 1e-15).all()


def test_the_end_of_a_tail_is_counted():
    """24 members, 2.5 million codewords: where 10,000 at most reach the score p is their share."""
    code, answers = Codebook(40, 24, 11), randn(24, 40, 1)
    answers += 1.5 * units_of(code).T[..., None]
    _, p = pull_significance(answers, units_of(code), units_of(code))
    sums = (units_of(code).double() * answers[..., 0].T).sum(1)
    reached = counted(answers[..., 0], sums - 1e-9, 11)
    few = reached < 9000
    assert 10 < few.sum() < 40
    torch.testing.assert_close(p[few, 0], reached[few].double() / (code.capacity - 39))


@pytest.mark.parametrize("power", [1, 3])
def test_p_of_64_members_is_uniform_under_the_null(power):
    """20,000 codewords that had no part in the answers, normal or heavy-tailed. Kolmogorov's distance: a false alarm in
    10,000 beyond 2.23 / sqrt(20,000), and 0.01 for the approximation; p <= 0.001 as often as 4.5 standard errors allow
    (false alarm 7e-6)."""
    codewords = units_of(Codebook(20_000, 64, 28))
    answers = (randn(64, 1, 1) ** power).expand(-1, len(codewords), -1)
    _, p = pull_significance(answers, codewords, codewords)
    assert stats.kstest(p[:, 0].numpy(), "uniform").statistic < 2.23 / 20_000**0.5 + 0.01
    assert abs((p <= 1e-3).sum() - 20) < 4.5 * 20**0.5


@pytest.mark.parametrize("far", [30, 200, 10_000])
@pytest.mark.parametrize("members", [36, 64, 128])
def test_a_member_that_is_far_from_all_others_makes_no_findings(members, far):
    """20,000 codewords that had no part in the answers: p <= 0.001 at most twice as often as it should, and 4.5
    standard errors (false alarm 7e-6)."""
    codewords = units_of(Codebook(20_000, members, members * 4 // 9))
    answers = randn(members, 1, 1)
    answers[0] += far
    _, p = pull_significance(answers.expand(-1, len(codewords), -1), codewords, codewords)
    assert (p <= 1e-3).sum() < 40 + 4.5 * 40**0.5


def test_p_of_pull_counts_the_phantoms_on_the_unit_s_own_direction():
    projected = randn(6, 3, 2)
    score, phantoms = pull(projected, units_of(SMALL)), phantoms_of(SMALL)
    z, p = pull_significance(projected, units_of(SMALL), units_of(SMALL))
    for i in range(3):
        for q in range(2):
            null = as_every_unit(phantoms, projected[:, i, q, None])
            torch.testing.assert_close(p[i, q], (1 + (null >= score[i, q]).sum()) / torch.tensor(13.0).double())
    torch.testing.assert_close(z, score / null_deviation(projected, units_of(SMALL)), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("members", "weight"), [(18, 8), (20, 9)])
def test_what_is_not_counted_is_near_what_is(monkeypatch, members, weight):
    """The codebook's size alone decides which way p is made: both ways for the same units, at p that matter. The
    factor for codewords that others hold is that of the worst case, C / (C - N + 1)."""
    code, answers = Codebook(60, members, weight), randn(members, 60, 5)
    answers += 0.5 * units_of(code).T[..., None]
    z, p = pull_significance(answers, units_of(code), units_of(code))
    monkeypatch.setattr("ddattr.attribution.significance.COUNTED", 0)
    same, close = pull_significance(answers, units_of(code), units_of(code))
    assert torch.equal(z, same)
    found = (p > 1e-2) & (p < 0.5)
    assert found.sum() > 100
    assert ((close / p)[found] - code.capacity / (code.capacity - 59)).abs().max() < 0.1
    assert close.min() >= 1 / code.capacity
    assert close.max() <= 1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_significance_does_not_depend_on_the_scale(scale):
    projected = randn(6, 3, 2)
    expected = pull_significance(projected, units_of(SMALL), units_of(SMALL))
    found = pull_significance(scale * projected, units_of(SMALL), units_of(SMALL))
    for first, second in zip(found, expected, strict=True):
        torch.testing.assert_close(first, second)


def test_a_planted_effect_is_as_significant_as_can_be():
    """Members that saw the unit project 1 more on its direction: no other codeword reaches its score."""
    codebook = Codebook(5, 12, 5)
    codewords = units_of(codebook)
    projected = codewords.T[..., None] + 0.02 * randn(12, 5, 1)
    z, p = pull_significance(projected, codewords, codewords)
    torch.testing.assert_close(p, torch.full_like(p, 1 / (1 + codebook.phantoms)))
    assert (z > 3).all()
    _, opposite = pull_significance(-projected, codewords, codewords)
    assert (opposite == 1).all()


def test_ties_count_against_the_unit():
    projected = torch.zeros(6, 3, 2, dtype=torch.float64)
    z, p = pull_significance(projected, units_of(SMALL), units_of(SMALL))
    assert (p == 1).all()
    assert (z == 0).all()
    z, p = norm_significance(torch.ones(3, 2), torch.ones(7, 2))
    assert (p == 1).all()
    assert (z == 0).all()


def test_rounding_does_not_break_a_tie():
    """Scores of 2 of 6 members with projections 0 and 0.1 take 3 values: equal ones must count whatever the order."""
    projected = 0.1 * torch.tensor([1, 0, 1, 0, 1, 0], dtype=torch.float64)[:, None]
    codewords = codewords_of(SMALL)
    seen = (codewords & torch.tensor([True, False] * 3)).sum(1)
    p = [pull_significance(projected[:, None], one[None], one[None])[1].item() for one in codewords]
    assert p == pytest.approx([((seen >= ones).sum() / 15).item() for ones in seen])


def test_p_of_norm_counts_the_phantoms():
    score, null = randn(20, 2).abs(), randn(50, 2, seed=1).abs()
    z, p = norm_significance(score, null)
    expected = (1 + (null >= score[:, None]).sum(1)) / torch.tensor(51.0).double()
    torch.testing.assert_close(p, expected)
    torch.testing.assert_close(z, (score - null.mean(0)) / null.std(0))


def test_complementary_codewords_tie_under_norm():
    """With h = n/2 a unit's complement has its norm: if it is a phantom, p cannot be the smallest."""
    codebook = Codebook(1, 6, 3)
    response = randn(1, 6, 9)
    response = response - response.mean(1, keepdim=True)
    gram = response @ response.mT
    _, p = norm_significance(norm(gram, units_of(codebook)), norm(gram, phantoms_of(codebook)))
    assert p.item() >= 2 / 20


def test_benjamini_hochberg_equals_scipy_s():
    p = torch.rand(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    p[:10, 0] = 0.01  # ties
    torch.testing.assert_close(
        benjamini_hochberg(p), torch.from_numpy(stats.false_discovery_control(p.numpy(), axis=0))
    )


def test_benjamini_hochberg_keeps_the_order_and_never_falls_below_p():
    p = torch.rand(40, 1, generator=torch.Generator().manual_seed(0))
    q = benjamini_hochberg(p)
    assert (q >= p).all()
    assert (q[p[:, 0].argsort(), 0].diff() >= 0).all()


def test_benjamini_hochberg_leaves_out_nan():
    """A test that could not be made stays NaN and costs the others nothing."""
    p = torch.tensor([[0.01, torch.nan], [torch.nan, torch.nan], [0.04, 0.5], [0.03, torch.nan]])
    expected = torch.tensor([[0.03, torch.nan], [torch.nan, torch.nan], [0.04, 0.5], [0.04, torch.nan]])
    torch.testing.assert_close(benjamini_hochberg(p), expected, equal_nan=True)


@pytest.mark.parametrize("false_nulls", [0, 10])
def test_benjamini_hochberg_controls_the_false_discovery_rate(false_nulls):
    """Exactly level * (true nulls / tests) for independent p: 2,000 repetitions of 40 tests at level 0.2.

    Within 4 standard errors, at most sqrt(0.2 * 0.8 / 2000) = 0.009 each: false-alarm rate 6e-5 for each case.
    """
    p = torch.rand(40, 2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p[:false_nulls] *= 1e-3
    rejected = benjamini_hochberg(p) <= 0.2
    rate = (rejected[false_nulls:].sum(0) / rejected.sum(0).clamp_min(1)).mean().item()
    assert abs(rate - 0.2 * (40 - false_nulls) / 40) < 4 * 0.009


def set_inputs(codebook: Codebook, queries: int = 2):
    projected = randn(codebook.members, codebook.units, queries)
    return pull(projected, units_of(codebook)), projected


def of_sets(sets: torch.Tensor, projected: torch.Tensor, *given, **options):
    """set_significance of units whose answers are `projected`."""
    answers = projected[:, sets.clamp_min(0), torch.arange(sets.shape[1])[:, None]]
    return set_significance(sets, answers, *given, **options)


def test_a_set_s_score_is_the_sum_of_its_units_pull():
    score, projected = set_inputs(SMALL)
    sets = torch.tensor([[[0, 2], [1, 2]], [[1, -1], [0, -1]]])
    total, _, _ = of_sets(sets, projected, SMALL)
    expected = torch.stack(
        [torch.stack([score[0, 0] + score[2, 0], score[1, 1] + score[2, 1]]), torch.stack([score[1, 0], score[0, 1]])]
    )
    torch.testing.assert_close(total, expected)


def test_a_set_of_one_unit_is_the_unit():
    codebook = Codebook(20, 8, 3)
    _, projected = set_inputs(codebook, queries=2)
    z, p = pull_significance(projected, units_of(codebook), units_of(codebook))
    sets = torch.arange(20)[:, None, None].expand(-1, 2, -1)
    _, set_z, set_p = of_sets(torch.nn.functional.pad(sets, (0, 2), value=-1), projected, codebook)
    torch.testing.assert_close(set_z, z, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(set_p, p)


@pytest.mark.parametrize("size", [2, 3])
def test_a_set_s_deviation_is_that_of_all_assignments_of_distinct_codewords(size):
    """Full enumeration of ordered pairs and triples of the 10 codewords of 5 bits with 2 ones."""
    codebook = Codebook(3, 5, 2)
    _, projected = set_inputs(codebook, queries=1)
    w = contrast(codewords_of(codebook)).double()
    each = -(w @ projected[..., 0])  # (word, unit): pull of the unit under the word
    null = torch.stack(
        [sum(each[word, unit] for unit, word in enumerate(held)) for held in itertools.permutations(range(10), size)]
    )
    total, z, _ = of_sets(torch.arange(size)[None, None], projected, codebook)
    torch.testing.assert_close((total / z).item(), null.std(correction=0).item(), rtol=1e-6, atol=0)


def assigned(codebook: Codebook, answers: torch.Tensor, draws: int) -> torch.Tensor:
    """Scores of a set under assignments of distinct codewords, by plain draws: answers (n, size) to (draws,)."""
    w, generator = contrast(codewords_of(codebook)).double(), torch.Generator().manual_seed(1)
    held = torch.stack([torch.randperm(len(w), generator=generator)[: answers.shape[1]] for _ in range(draws)])
    return -torch.einsum("dsn,ns->d", w[held], answers)


@pytest.mark.parametrize("size", [2, 5, 20])
def test_a_set_s_p_is_the_share_of_assignments_of_distinct_codewords(size):
    """792 codewords. Of 12 scores of every size each within 4.5 standard errors of 10,000 draws (false alarm 7e-6 each)
    and 6 % of p."""
    codebook, draws = Codebook(40, 12, 5), 10_000
    answers = randn(12, 12, size) + torch.linspace(0, 6, 12)[:, None] / size * units_of(codebook)[:size].T[:, None]
    sets = torch.arange(size)[None, None].expand(1, 12, -1)
    total, _, p = set_significance(sets, answers[:, None], codebook)
    for q in range(12):
        share = (assigned(codebook, answers[:, q], draws) >= total[0, q] - 1e-9).double().mean()
        assert abs(p[0, q] - share) <= 4.5 * (share * (1 - share) / draws).sqrt() + 0.06 * share + 1 / draws


def test_a_set_that_holds_most_codewords_is_rejected_at_the_level():
    """15 of 36 codewords, no influence: over 2,000 codebooks within 4.5 standard errors (false alarm 7e-6)."""
    answers, p = randn(9, 1, 1, 15), []
    for seed in range(2000):
        p.append(set_significance(torch.arange(15)[None, None], answers, Codebook(20, 9, 2, seed))[2])
    rejected = (torch.stack(p) <= 0.05).double().mean()
    assert abs(rejected - 0.05) < 4.5 * (0.05 * 0.95 / 2000) ** 0.5


def test_padding_changes_nothing():
    codebook = Codebook(6, 8, 3)
    _, projected = set_inputs(codebook)
    sets = torch.tensor([[[0, 1]] * 2, [[3, 5]] * 2])
    padded = torch.nn.functional.pad(sets, (0, 3), value=-1)
    for plain, with_padding in zip(
        of_sets(sets, projected, codebook),
        of_sets(padded, projected, codebook),
        strict=True,
    ):
        torch.testing.assert_close(with_padding, plain)


def test_a_set_s_scores_do_not_depend_on_the_other_sets():
    codebook = Codebook(6, 8, 3)
    _, projected = set_inputs(codebook)
    sets = torch.tensor([[[0, 1, 2]] * 2, [[3, 5, -1]] * 2, [[4, -1, -1]] * 2])
    together = of_sets(sets, projected, codebook)
    for s in range(3):
        alone = of_sets(sets[s : s + 1], projected, codebook)
        for part, whole in zip(alone, together, strict=True):
            torch.testing.assert_close(part[0], whole[s])


def test_a_set_of_answers_that_do_not_vary_has_p_1():
    sets = torch.tensor([[[0, 1]] * 2])
    _, z, p = of_sets(sets, torch.zeros(6, 3, 2, dtype=torch.float64), SMALL)
    assert (p == 1).all()
    assert (z == 0).all()


def test_an_empty_set_has_score_0_and_no_p():
    _, projected = set_inputs(SMALL)
    total, z, p = of_sets(torch.full((1, 2, 2), -1), projected, SMALL)
    assert (total == 0).all()
    assert (z == 0).all()
    assert p.isnan().all()


def test_a_set_larger_than_the_phantoms_has_no_p():
    """8 units of 10 codewords leave 2 phantoms: a set of 2 has a null, a set of 3 has none."""
    codebook = Codebook(8, 5, 2)
    _, projected = set_inputs(codebook)
    sets = torch.tensor([[[0, 1, -1]] * 2, [[0, 1, 2]] * 2])
    total, z, p = of_sets(sets, projected, codebook)
    assert not p[0].isnan().any()
    assert p[1].isnan().all()
    assert not total.isnan().any()
    assert not z.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("members", "weight"), [(64, 28), (256, 114), (1024, 455)])
def test_a_capacity_that_64_bits_cannot_count_is_the_limit_of_independent_codewords(members, weight, dtype):
    """C(256, 114) is 10^75. z is exact in the limit; p within 1 % of the normal one, which is more than sums over 28 of
    64 members and more differ from a normal."""
    codebook = Codebook(6, members, weight)
    score, projected = (part.to(dtype) for part in set_inputs(codebook))
    sets = torch.tensor([[[0, 1, -1]] * 2, [[3, 4, 5]] * 2])
    total, z, p = of_sets(sets, projected, codebook)
    squares = torch.stack([projected.var(0)[[0, 1]].sum(0), projected.var(0)[[3, 4, 5]].sum(0)])
    torch.testing.assert_close(z, total / (codebook.contrast_variance * squares).sqrt())
    normal = torch.distributions.Normal(0, 1)
    assert ((p - normal.cdf(-z)).abs() < 0.01).all()
    z, p = pull_significance(projected, units_of(codebook), units_of(codebook))
    assert ((p - normal.cdf(-z)).abs() < 0.01).all()
    _, p = radius_significance(score.abs().amax(0), score.new_zeros(2000, 2), codebook)
    torch.testing.assert_close(p, torch.full_like(p, 6 / 2006))  # the largest of 2,006 is one of the 6


def test_a_planted_set_is_significant_where_its_units_are_not():
    """10 units, each a weak pull of 1 deviation: the set stands about sqrt(10) deviations out."""
    codebook = Codebook(10, 12, 5)
    codewords = units_of(codebook)
    noise, own = randn(12, 10, 1), contrast(codewords).double().T[:, :, None]
    noise = noise - noise.mean(0) - own * (own * noise).sum(0) / own.square().sum(0)
    size = codebook.contrast_variance  # |w|^2: the score of c w is c |w|^2, its deviation from |noise|^2 and c^2 |w|^2
    c = (noise.square().sum(0) / (11 * size - size)).sqrt()
    projected = noise - c * own
    score = pull(projected, codewords)
    torch.testing.assert_close(score, null_deviation(projected, codewords))
    _, unit_p = pull_significance(projected, codewords, codewords)
    _, z, p = of_sets(torch.arange(10)[None, None], projected, codebook)
    assert len(codewords) == 10
    assert unit_p.min() > 0.05
    assert 2.5 < z.item() < 4
    assert p.item() < 0.01


@pytest.mark.parametrize(
    ("p", "index"),
    [
        ([0.01, 0.01, 0.01], 0),
        ([0.20, 0.01, 0.01], 1),
        ([0.20, 0.20, 0.01], 2),
        ([0.20, 0.20, 0.20], -1),
        ([0.01, 0.01, 0.20], -1),  # the largest fails: nothing below it is tested
        ([0.01, 0.20, 0.01], 2),  # the sequence stops in the middle
        ([0.01, 0.20, float("nan")], -1),
        ([0.01, 0.01, float("nan")], 0),  # too large to be tested: the sequence begins below it
        ([float("nan")] * 3, -1),
        ([0.05, 0.05, 0.05], 0),
    ],
)
def test_resolution_is_where_the_fixed_sequence_stops(p, index):
    assert resolution(torch.tensor(p)[:, None], 0.05).tolist() == [index]


def test_resolution_errs_at_the_level():
    """Under the global null only the first test can be wrong: 10,000 queries, within 4 standard errors of 0.0022."""
    p = torch.rand(6, 10_000, generator=torch.Generator().manual_seed(0))
    assert abs((resolution(p, 0.05) >= 0).float().mean() - 0.05) < 4 * 0.0022


@pytest.mark.parametrize(("units", "phantoms"), [(1, 14), (10, 782), (100, 692), (790, 2), (1000, 50)])
def test_p_of_the_radius_is_uniform_under_the_null(units, phantoms):
    """Exchangeability: P(p <= p_m) = p_m, where p_m belongs to the m-th largest of all N + P norms.

    The largest of N codewords ranks m-th or better among N + P with a hypergeometric probability; exact. It is the same
    for all phantoms of a code and for a sample of them.
    """
    codebook = Codebook(units, 64, 28)
    above = torch.arange(phantoms + 1)
    null = torch.arange(1.0, phantoms + 1).double()[:, None].expand(-1, len(above))
    _, p = radius_significance(phantoms + 0.5 - above.double(), null, codebook)
    rank_at_most = 1 - stats.hypergeom(units + phantoms, units, 1 + above.numpy()).pmf(0)
    torch.testing.assert_close(p, torch.from_numpy(rank_at_most), rtol=1e-9, atol=1e-12)


def test_p_and_median_of_the_radius_agree_with_draws():
    """20,000 times 10 of 792 codewords; within 4.5 standard errors, p over 5 radii of one phantom each: false alarm
    4e-5.

    The share of maxima above the median may also differ by 10 / 792, as the median takes draws for independent.
    """
    codebook, norms = Codebook(10, 12, 5), randn(792).abs().sort().values
    drawn = torch.rand(20_000, 792, generator=torch.Generator().manual_seed(1)).topk(10).indices
    rank = [1, 20, 50, 100, 200]
    radius = norms[[-r for r in rank]]
    null = torch.stack([torch.cat([norms[: 782 - r + 1], norms[792 - r + 1 :]]) for r in rank], dim=1)
    _, p = radius_significance(radius, null, codebook)
    maxima = norms[drawn].amax(1)
    share = torch.stack([(maxima >= r).double().mean() for r in radius])
    assert ((p - share).abs() <= 4.5 * (p * (1 - p) / 20_000).sqrt()).all()
    median, _ = radius_significance(radius[:1], norms[:, None], codebook)
    above = (maxima >= median).double().mean()
    assert abs(above - 0.5) < 4.5 * 0.5 / 20_000**0.5 + 10 / 792


@pytest.mark.parametrize("units", [1, 2, 10, 500])
def test_half_of_the_largest_of_n_phantoms_are_below_the_phantom_radius(units):
    """Of phantoms spread evenly over 0 .. r a share m / r is below m, and of the largest of N a share (m / r)^N."""
    null = torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None] * torch.tensor([1.0, 30.0]).double()
    median, _ = radius_significance(null[-1], null, Codebook(units, 64, 28))
    torch.testing.assert_close((median / null[-1]) ** units, torch.full((2,), 0.5, dtype=torch.float64))


def test_p_of_the_radius_has_the_limit_of_independent_draws():
    """With many more phantoms than units: p = 1 - (1 - share)^N, to N / P."""
    null = torch.arange(100_000).double()[:, None].expand(-1, 3)
    share = torch.tensor([0.01, 0.1, 0.5]).double()
    _, p = radius_significance(100_000 * (1 - share), null, Codebook(10, 64, 28))
    torch.testing.assert_close(p, 1 - (1 - share) ** 10, rtol=1e-3, atol=0)


@pytest.mark.filterwarnings("ignore:std")  # the deviation of no phantoms
def test_without_phantoms_nothing_is_significant():
    codebook = Codebook(10, 5, 2)
    score, projected = set_inputs(codebook)
    assert (pull_significance(projected, units_of(codebook), units_of(codebook))[1] == 1).all()
    assert (norm_significance(score.abs(), torch.zeros(0, 2, dtype=torch.float64))[1] == 1).all()
    assert of_sets(torch.tensor([[[0, 1]] * 2]), projected, codebook)[2].isnan().all()
    median, p = radius_significance(score[0].abs(), torch.zeros(0, 2, dtype=torch.float64), codebook)
    assert median.isnan().all()
    assert (p == 1).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"level": 0.0}, r"level=0.0, expected between 0 and 1. Set significance.level"),
        ({"level": 1.0}, r"level=1.0, expected between 0 and 1. Set significance.level"),
        ({"level": 1.5}, r"level=1.5, expected between 0 and 1. Set significance.level"),
        ({"phantoms": 0}, r"phantoms=0, expected at least 1. Set significance.phantoms"),
        ({"verified": -1}, r"verified=-1, expected at least 0. Set significance.verified"),
        ({"gls_share": 1.0}, r"gls_share=1.0, expected at least 0 and less than 1. Set significance.gls_share"),
        ({"gls_share": -0.1}, r"gls_share=-0.1, expected at least 0 and less than 1. Set significance.gls_share"),
        ({"neighbourhoods": ()}, r"neighbourhoods=\[\], expected numbers of units from 1 up"),
        ({"neighbourhoods": (0, 1)}, r"neighbourhoods=\[0, 1\], expected numbers of units from 1 up"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, message):
    with pytest.raises(ValueError, match=f"significance: {message}"):
        TestSettings(0, **given)


def test_settings_fit_as_many_units_as_their_smallest_neighbourhood():
    settings = TestSettings(0, neighbourhoods=(50, 12))
    settings.check_units(12)
    with pytest.raises(ValueError, match=r"neighbourhoods=\[50, 12\], expected some numbers from 1 to 11"):
        settings.check_units(11)
