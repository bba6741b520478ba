"""The examples of a report: chosen by rule, explained for the predicted class."""

from __future__ import annotations

import numpy as np

from convexcnn.data import ImageSplit
from convexcnn.explain.gallery import MAPS, choose_examples, explain_examples, explain_run
from convexcnn.report import maximiser_files, run_files
from tiny_models import convex, layerwise


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


def test_the_top_classes_add_up_to_their_scores(model, data) -> None:
    found = explain_examples(model, ImageSplit(data[0][:12], data[1][:12]))
    order = (-found["scores"]).argsort(1)
    intercept = model.intercept_.numpy()[order]
    scores = np.take_along_axis(found["scores"], order, 1)
    np.testing.assert_allclose(found["top"].sum((2, 3)) + intercept, scores, atol=1e-5)


def test_a_stack_is_explained_head_by_head(data) -> None:
    stack = layerwise().fit(*data)
    found = explain_examples(stack, ImageSplit(data[0][:12], data[1][:12]))
    m = len(found["images"])
    np.testing.assert_allclose(
        found["block_scores"].swapaxes(0, 1), stack.block_scores(found["images"])
    )
    columns = found["scores"].argmax(1)
    for number, block in enumerate(stack.blocks_):
        total = found["blocks"][:, number].sum((1, 2)) + block.bias.numpy()[columns]
        scores = found["block_scores"][np.arange(m), number, columns]
        np.testing.assert_allclose(total, scores, atol=1e-5 * np.abs(scores).max())


def test_what_a_run_records_is_what_its_report_reads(data, tmp_path) -> None:
    stack = layerwise().fit(*data)
    found = explain_run(stack, ImageSplit(data[0][:12], data[1][:12]))
    blocks = maximiser_files.read_maximisers(tmp_path, found, 3)
    assert [block.filter_images.shape[1] for block in blocks] == [0, 2, 2]


def test_float_images_bound_what_is_climbed_to(convex_model, data) -> None:
    images = data[0][:12].astype(np.float32)
    found = explain_run(convex_model, ImageSplit(images.clip(50, 150), data[1][:12]))
    pictures = 50 + found["block1.class_images"] * np.float32(100 / 255)
    best = found["block1.class_values"].max(1)
    np.testing.assert_allclose(convex_model.scores(pictures).diagonal(), best, rtol=1e-3)


def test_max_pooling_is_explained_by_its_scores_alone(data) -> None:
    model = convex(pool="max", betas=0.1, regulariser="group").fit(*data)
    found = explain_run(model, ImageSplit(data[0][:12], data[1][:12]))
    assert found["occlusion"].any()
    assert not {"contributions", "gradcam", "gradient", "top", "block1.class_images"} & set(found)


def test_report_and_gallery_agree_on_the_maps() -> None:
    assert run_files.MAPS == MAPS
