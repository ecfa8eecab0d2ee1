"""How far files are apart: closed forms."""

import numpy as np
import pandas as pd
import pytest
import torch

from ddattr.files import save_table, save_tensors
from ddattr.stages.difference import difference


@pytest.fixture
def apart(tmp_path):
    """What is said of two tables or tensors."""

    def say(kept, made, ending: str = ".csv") -> str:
        paths = tmp_path / f"kept{ending}", tmp_path / f"made{ending}"
        for path, content in zip(paths, (kept, made), strict=True):
            (save_tensors if ending == ".safetensors" else save_table)(path, content)
        return difference(*paths)

    return say


def test_the_largest_differences_of_tensors_are_those_of_their_own(apart):
    """0.5 of at most 100 in one, 0.25 of at most 2 in the other."""
    kept = {"large": torch.tensor([100.0, -3.0]), "small": torch.tensor([[1.0], [-2.0]])}
    made = {"large": torch.tensor([100.5, -3.0]), "small": torch.tensor([[1.0], [-1.75]])}
    said = apart(kept, made, ".safetensors")
    assert said == "largest difference 0.5 (tensor large), relative 0.12 (tensor small)"


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_columns_of_words_are_counted_and_those_of_numbers_measured(apart, ending):
    kept = pd.DataFrame({"x": [1.0, np.nan, 4.0], "name": ["a", "b", "c"], "good": [True, False, True]})
    made = pd.DataFrame({"x": [1.0, np.nan, 3.0], "name": ["a", "x", "y"], "good": [True, False, True]})
    words = "largest difference 1 (column x), relative 0.25 (column x), 2 of 3 entries of column name"
    assert apart(kept, made, ending) == words


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_any_more_is_infinitely_far(apart, value):
    said = apart(pd.DataFrame({"x": [1.0, 2.0]}), pd.DataFrame({"x": [1.0, value]}))
    assert said == "largest difference inf (column x), relative inf (column x)"


def test_another_shape_and_another_name_are_said(apart):
    one, two = {"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}
    assert apart(one, two, ".safetensors") == "tensor a is of 3 x 2, not of 2 x 3"
    assert apart(one, {"b": torch.zeros(2, 3)}, ".safetensors") == "tensor a is in one of them only"
    assert apart(pd.DataFrame({"x": [1]}), pd.DataFrame({"x": [1, 2]})) == "column x is of 2, not of 1"


def test_the_same_values_in_other_bits_are_told_from_other_values(apart):
    one, two = {"a": torch.zeros(2)}, {"a": torch.zeros(2, dtype=torch.float64)}
    assert apart(one, two, ".safetensors") == "the same values in other bits"


def test_of_what_has_no_numbers_bits_are_all_that_is_said(tmp_path):
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "b.png").write_bytes(b"2")
    assert difference(tmp_path / "a.png", tmp_path / "b.png") == "other bits"
