"""How many channels stay, and which."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgelung.converters.pruning.selection import choose_dropped, count_kept


@pytest.mark.parametrize(
    ("channels", "ratio", "round_to", "kept"),
    [
        (16, 0.5, 1, 8),
        (16, 0.5, 16, 16),
        (64, 0.5, 16, 32),
        (10, 0.9, 1, 1),
        (5, 0.5, 1, 3),
        (20, 0.3, 8, 16),
        (20, 0.0, 8, 20),
        (4, 0.99, 1, 1),
        (12, 0.1, 16, 12),
    ],
)
def test_counts(channels, ratio, round_to, kept):
    assert count_kept(channels, ratio, round_to) == kept


@given(st.integers(1, 300), st.floats(0, 0.999), st.integers(1, 64))
def test_never_fewer_than_asked_and_aligned(channels, ratio, round_to):
    kept = count_kept(channels, ratio, round_to)
    assert 1 <= kept <= channels
    assert kept >= channels * (1 - ratio) - 1e-6
    assert kept % round_to == 0 or kept == channels


def test_the_lowest_go_and_of_equals_the_first():
    scores = {"a": torch.tensor([3.0, 1.0, 1.0, 2.0]), "b": torch.tensor([9.0, 9.0, 9.0, 9.0])}
    assert choose_dropped(scores, ratio=0.5) == {"a": (1, 2), "b": (0, 1)}
    assert choose_dropped(scores, ratio=0.25) == {"a": (1,), "b": (0,)}


def test_global_takes_where_it_matters_least_and_leaves_one():
    scores = {"a": torch.tensor([0.3, 0.1, 0.1, 0.2]), "b": torch.tensor([9.0, 8.0, 7.0, 6.0])}
    assert choose_dropped(scores, ratio=0.375, scope="global") == {"a": (1, 2, 3), "b": ()}
    assert choose_dropped(scores, ratio=0.5, scope="global") == {"a": (1, 2, 3), "b": ()}
    assert choose_dropped(scores, ratio=0.375, scope="global", round_to=2) == {"a": (1, 2), "b": ()}
