"""Hadamard matrices: the law that defines them, for every order that is made."""

import numpy as np
import pytest

from ddattr.hadamard import exists, hadamard

ORDERS = [order for order in range(1, 257) if exists(order)]


@pytest.mark.parametrize("order", [*ORDERS, 1020, 1024])
def test_rows_are_orthogonal_and_all_but_the_first_are_balanced(order):
    matrix = hadamard(order)
    assert (np.abs(matrix) == 1).all()
    assert (matrix @ matrix.T == order * np.eye(order)).all()
    assert (matrix[0] == 1).all()
    assert (matrix[1:].sum(1) == 0).all()


def test_orders_are_those_of_powers_of_two_of_paley_over_primes_and_of_doubling():
    """Of the multiples of four up to 128, by hand: 52 = 51 + 1 = 2 (25 + 1), 92 = 91 + 1 = 2 (45 + 1), 100, 116."""
    missing = {52, 92, 100, 116}
    assert set(range(4, 129, 4)) - set(ORDERS) == missing
    assert not [order for order in ORDERS if order > 2 and order % 4]


@pytest.mark.parametrize("order", [0, 3, 6, 52])
def test_an_order_that_is_not_made_is_refused(order):
    with pytest.raises(ValueError, match=f"hadamard: order={order}, expected"):
        hadamard(order)
