"""Sets that units fall into: each kind is made when it is asked for, and once."""

import pytest
import torch

from ddattr.data.partitions import Partitions


def test_a_kind_is_made_when_it_is_asked_for_and_once():
    made = []

    def make(kind: str) -> torch.Tensor:
        made.append(kind)
        return torch.arange(3) + len(made)

    sets = Partitions(["label", "cluster"], make)
    assert list(sets) == ["label", "cluster"]
    assert len(sets) == 2
    assert "cluster" in sets
    assert "folder" not in sets
    assert made == []
    first = sets["cluster"]
    assert made == ["cluster"]
    assert sets["cluster"] is first
    assert dict(sets)["cluster"] is first
    assert made == ["cluster", "label"]


def test_no_other_kind_is_made():
    with pytest.raises(KeyError):
        Partitions(["label"], lambda kind: torch.zeros(3).long())["folder"]
