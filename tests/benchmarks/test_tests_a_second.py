"""p-values a second, and what phantoms would cost: `pytest tests/benchmarks --benchmark-enable`.

Random answers: the cost hardly depends on them. Processor seconds on one thread; nothing here asserts a timing.
"""

import pytest
import torch
from measured import medians

from ddattr.attribution.significance import pull_significance
from ddattr.attribution.tails import counted, saddlepoint
from ddattr.codebook import Codebook, contrast

TESTS, PHANTOMS = 5_000, 100_000


@pytest.mark.parametrize("members", [16, 18, 20, 24, 64, 256])
def test_p_values_a_second(figure, members):
    code = Codebook(100, members, round(members * 4 / 9))
    generator = torch.Generator().manual_seed(0)
    answers = torch.randn(members, 100, TESTS // 100, generator=generator, dtype=torch.float64)
    codewords = code.codewords(torch.arange(100))
    _, p = pull_significance(answers, codewords, codewords)
    assert abs(p.mean() - 0.5) < 4.5 / (12 * TESTS) ** 0.5 + 0.01  # uniform: false alarm 7e-6
    weights = -contrast(code.sample_phantoms(min(code.phantoms, PHANTOMS))).double()
    some = answers[:, :, :1].flatten(1)
    calls = {
        "exact": lambda: pull_significance(answers, codewords, codewords),
        "phantoms": lambda: (weights @ some >= some[0]).sum(0),
    }
    spent = medians(calls, 3)
    each = spent["phantoms"] / some.shape[1]
    figure(f"p-values a second, n = {members}", TESTS / spent["exact"], "/s", f"by {len(weights):,} phantoms", 1 / each)


@pytest.mark.parametrize("members", [16, 18, 20, 22, 24])
def test_error_of_the_saddlepoint_where_it_can_be_counted(figure, members):
    """By size of p: the 5 %, 50 % and 95 % quantiles of saddlepoint over counted."""
    weight = round(members * 4 / 9)
    numbers = torch.randn(members, 1, 1500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    numbers[:weight] += torch.linspace(0, 2, 1500)
    code, total = Codebook(1, members, weight), numbers[:weight, 0].sum(0)
    deviation = (numbers[:, 0].var(0) * weight * (members - weight) / members).sqrt()
    p = counted(numbers[:, 0], total - 1e-9, weight) / code.capacity
    ratio = saddlepoint(numbers, (total - weight * numbers[:, 0].mean(0)) / deviation, weight) / p
    for low in (0.1, 0.01, 1e-3, 1e-4):
        some = ratio[(p >= low) & (p < 10 * low)]
        if len(some) > 20:
            quantiles = some.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
            assert abs(quantiles[1] - 1) < (0.03 if low >= 1e-3 else 0.15)
            print(f"\nn = {members}, p from {low:g}: " + ", ".join(f"{q:.3f}" for q in quantiles), end="")
            if low == 1e-3:
                figure(f"saddlepoint's p of 0.001 to 0.01, n = {members}", quantiles[1], "times", "counted p", 1.0)
