"""The examples of a report: chosen by rule, explained for the predicted class."""

from __future__ import annotations

import numpy as np

from convexcnn.data import ImageSplit
from convexcnn.explain.gallery import MAPS, choose_examples, explain_examples
from convexcnn.report import run_files


def test_first_images_of_different_classes_are_chosen() -> None:
    labels = np.array([0, 0, 1, 2, 2, 1, 3, 0])
    predicted = np.array([1, 0, 1, 2, 2, 0, 3, 2])
    assert choose_examples(labels, predicted, right=3, wrong=2).tolist() == [1, 2, 3, 0, 5]
    assert choose_examples(labels, labels).tolist() == [0, 2, 3, 6]
    assert choose_examples(labels, labels + 1).tolist() == [0, 2]


def test_examples_are_whole(model, data) -> None:
    split = ImageSplit(data[0][:12], data[1][:12])
    found = explain_examples(model, split)
    m = len(found["images"])
    assert 3 <= m <= 6
    np.testing.assert_array_equal(found["images"], split.images[found["index"]])
    np.testing.assert_array_equal(found["labels"], split.labels[found["index"]])
    np.testing.assert_array_equal(found["predicted"], model.predict(found["images"]))
    for name in MAPS:
        assert found[name].shape == (m, 9, 9)
        assert found[name].dtype == np.float32
    total = found["contributions"].sum((1, 2)) + model.intercept_.numpy()[found["predicted"]]
    np.testing.assert_allclose(total, found["scores"].max(1), atol=1e-5)


def test_report_and_gallery_agree_on_the_maps() -> None:
    assert run_files.MAPS == MAPS
