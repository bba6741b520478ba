"""Stratified choices keep every class's share and repeat by seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convexcnn.data import stratified_subset, train_validation_split
from convexcnn.errors import SettingError

label_lists = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.asarray)


@given(labels=label_lists, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_a_split_is_a_partition_and_every_class_keeps_its_share(labels, fraction, seed):
    train, validation = train_validation_split(labels, fraction, seed)
    together = np.sort(np.concatenate([train, validation]))
    np.testing.assert_array_equal(together, np.arange(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    for label, size in zip(*np.unique(labels, return_counts=True), strict=True):
        held_out = np.count_nonzero(labels[validation] == label)
        expected = min(max(round(fraction * size), 1), size - 1)
        assert held_out == expected


@given(labels=label_lists, data=st.data())
def test_a_subset_has_the_size_asked_for_and_every_class(labels, data):
    classes, sizes = np.unique(labels, return_counts=True)
    n = data.draw(st.integers(len(classes), len(labels)))
    chosen = stratified_subset(labels, n, seed=0)
    assert len(chosen) == n
    assert (np.diff(chosen) > 0).all()
    kept_classes, kept = np.unique(labels[chosen], return_counts=True)
    np.testing.assert_array_equal(kept_classes, classes)
    assert (kept <= sizes).all()
    share = n * sizes / len(labels)
    if (share >= 1).all():
        assert (np.abs(kept - share) < 1).all()


def test_the_same_seed_gives_the_same_choice_and_another_seed_another():
    labels = np.arange(200) % 5
    first = train_validation_split(labels, 0.2, seed=3)[1]
    np.testing.assert_array_equal(first, train_validation_split(labels, 0.2, seed=3)[1])
    assert not np.array_equal(first, train_validation_split(labels, 0.2, seed=4)[1])


def test_labels_may_be_words():
    train, validation = train_validation_split(np.array(["cat", "dog"] * 10), 0.5, seed=0)
    assert len(train) == len(validation) == 10


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_impossible_fractions_are_refused(fraction):
    with pytest.raises(SettingError, match="give a number between 0 and 1"):
        train_validation_split(np.arange(10) % 2, fraction, seed=0)


def test_a_subset_smaller_than_the_number_of_classes_is_refused():
    with pytest.raises(SettingError, match="give at least 5"):
        stratified_subset(np.arange(50) % 5, 4, seed=0)
