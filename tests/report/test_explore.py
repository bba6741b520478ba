"""Block by block: what heads and filters like best, what can be chosen, and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import HtmlPage
from safetensors.numpy import save_file
from synthetic_runs import (
    CIFAR_CLASSES,
    WriteRun,
    examples,
    fit_result,
    maximisers,
    run_filters,
    stack_result,
)

from convexcnn.errors import RunError
from convexcnn.report import build_report

MAX_PAGE = 3_000_000


def build(write_run: WriteRun, result: dict[str, Any], tensors: dict[str, Any]) -> Path:
    folder = write_run(result, [], run_filters(10, 16, 16))
    save_file(examples(2) | tensors, folder / "explanations.safetensors")
    return build_report(folder)


def test_every_block_and_class_can_be_chosen(write_run: WriteRun) -> None:
    page = HtmlPage(build(write_run, stack_result(3), maximisers(3)).read_text("utf-8"))
    choices = {}
    for box in page.all_of("input"):
        choices.setdefault(box["name"], []).append(box["value"])
    classes = [str(number) for number in range(10)]
    assert choices == {
        "block": ["1", "2", "3", "all"],
        "class": [*classes, "all"],
        "image": ["0", "1", "all"],
    }
    assert page.attributes("data-block") == ["1", "2", "3"]
    strips = [*classes, *classes]  # filters, and what the score likes best
    assert page.attributes("data-class") == strips + 2 * classes


def test_tiles_say_the_value_reached_and_that_of_every_start(write_run: WriteRun) -> None:
    tensors = maximisers(2)
    tensors["block1.class_values"][3] = 1.25, 17.5
    tensors["block2.filter_values"][3, 0] = np.nan, 41.06
    tensors["block2.filter_values"][3, 1] = np.nan
    tensors["block2.filter_gates"][3, 0] = 6
    text = HtmlPage(build(write_run, stack_result(), tensors).read_text("utf-8")).text()
    assert "cat 17.50 score starts: 17.50, 1.25" in text
    assert "41.1 filter 1, gate 7 starts: 41.1, gate closed" in text
    assert "never open filter 2" in text
    assert "All 80 ascents together took 3.0 s." in text


def test_filters_are_cut_to_what_they_see(write_run: WriteRun) -> None:
    from convexcnn.report.explore import _cut

    picture = np.zeros((3, 8, 9), np.uint8)
    picture[0, 2:5, 1:7] = 200
    cut = _cut(picture, np.array([2, 1, 5, 7]))
    assert cut.shape == (3, 6, 3)
    assert (cut == [200, 0, 0]).all()


def test_a_two_layer_run_has_one_block_and_no_choice_of_it(write_run: WriteRun) -> None:
    path = build(write_run, fit_result(), maximisers())
    page = HtmlPage(path.read_text("utf-8"))
    assert {box["name"] for box in page.all_of("input")} == {"class", "image"}
    assert page.attributes("data-block") == []
    assert "What it looks for" in [text for tag, text in page.texts if tag == "h2"]
    assert "What the network likes best among all images" in page.text()


def test_all_is_in_the_page_without_its_script(write_run: WriteRun) -> None:
    page = HtmlPage(build(write_run, stack_result(), maximisers(2)).read_text("utf-8"))
    assert len([tag for tag, _ in page.elements if tag == "fieldset"]) == 3
    assert all("hidden" in attrs for attrs in page.all_of("fieldset"))
    assert not [value for value in page.attributes("class") if "off" in value.split()]
    for name in CIFAR_CLASSES:
        assert f"Image that maximises the score of {name} in block 2" in page.attributes("alt")


def test_eight_blocks_stay_small(write_run: WriteRun) -> None:
    tensors = maximisers(8) | examples(6, blocks=8)
    assert build(write_run, stack_result(8), tensors).stat().st_size < MAX_PAGE


def test_a_few_of_many_classes_are_looked_at(write_run: WriteRun) -> None:
    text = HtmlPage(build(write_run, fit_result(), maximisers(1, 4)).read_text("utf-8")).text()
    assert "Shown are the first 4 of 10 classes." in text


def test_a_stack_without_explanations_still_has_its_blocks(write_run: WriteRun) -> None:
    page = HtmlPage(build_report(write_run(stack_result())).read_text("utf-8"))
    assert page.attributes("data-block") == ["1", "2"]
    assert {box["name"] for box in page.all_of("input")} == {"block"}


def test_times_of_a_stack_are_summed_by_block(write_run: WriteRun) -> None:
    text = HtmlPage(build_report(write_run(stack_result())).read_text("utf-8")).text()
    assert "block 1 20.0 s block 2 40.0 s" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block2.class_values": None}, "has no 'block2.class_values'"),
        ({"block2.class_values": np.zeros((10, 0), np.float32)}, "block 2 that do not fit"),
        ({"block2.filter_boxes": np.full((10, 2, 4), 40)}, "block 2 that do not fit"),
        ({"block1.class_images": np.zeros((11, 3, 32, 32), np.uint8)}, "block 1 that do not fit"),
    ],
)
def test_damaged_entries_are_named(write_run: WriteRun, change: dict[str, Any], words: str) -> None:
    tensors = {k: v for k, v in (maximisers(2) | change).items() if v is not None}
    with pytest.raises(RunError, match=words) as raised:
        build(write_run, stack_result(), tensors)
    assert "delete it to report without explanations" in str(raised.value)
