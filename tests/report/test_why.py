"""The gallery of explained test images: what it says, and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import HtmlPage
from PIL import Image
from safetensors.numpy import save_file
from synthetic_runs import (
    WriteRun,
    examples,
    fit_result,
    run_filters,
    stack_result,
    write_run_folder,
)

from convexcnn.errors import RunError
from convexcnn.report import build_report
from convexcnn.report.map_pictures import AGAINST, FOR, overlay, picture_of

MAX_PAGE = 3_000_000


def build(write_run: WriteRun, tensors: dict[str, Any]) -> Path:
    folder = write_run(fit_result(), [], run_filters(10, 4, 4))
    save_file(tensors, folder / "explanations.safetensors")
    return build_report(folder)


def test_pictures_maps_and_scores_stand_beside_each_other(write_run: WriteRun) -> None:
    path = build(write_run, examples())
    page = HtmlPage(path.read_text("utf-8"))
    assert "Why" in [text for tag, text in page.texts if tag == "h2"]
    text = page.text()
    methods = "Contributions Occlusion Grad-CAM Gradient × input"
    assert f"Test image 0 airplane, recognised Picture {methods}" in text
    assert "Test image 40 truck, taken for deer" in text
    assert "airplane (true class) 1.000 truck 0.500 ship 0.444" in text
    assert "Figure 3. What the predicted class was decided on" in text
    alts = page.attributes("alt")
    assert "Test image 10, a picture of class automobile" in alts
    assert sum(alt.startswith("Occlusion to the score of") for alt in alts) == 6
    assert path.stat().st_size < MAX_PAGE
    with Image.open(path.parent / "figures" / "why-6.png") as figure:
        assert figure.width > 5 * 224


def test_the_top_three_classes_have_their_contributions(write_run: WriteRun) -> None:
    alts = HtmlPage(build(write_run, examples()).read_text("utf-8")).attributes("alt")
    first = [alt for alt in alts if alt.startswith("Contributions to the score of")][:4]
    names = [alt.removeprefix("Contributions to the score of ").partition(":")[0] for alt in first]
    assert names == ["airplane", "airplane", "truck", "ship"]  # the large map, then three small


def test_a_run_without_maps_of_the_top_classes_still_has_its_scores(write_run: WriteRun) -> None:
    tensors = examples()
    del tensors["top"], tensors["gradient"]
    text = HtmlPage(build(write_run, tensors).read_text("utf-8")).text()
    assert "airplane (true class) 1.000 truck 0.500 ship 0.444" in text


def test_the_caption_speaks_of_what_is_shown(write_run: WriteRun, tmp_path: Path) -> None:
    text = HtmlPage(build(write_run, examples()).read_text("utf-8")).text()
    assert "add up to the score" in text
    assert "weighs feature maps by their mean gradient. Gradient × input is what" in text
    assert "Below them the three highest scores, the true class in bold, with the" in text

    tensors = examples()  # as of max pooling with two classes
    for name in ("contributions", "gradcam", "gradient", "top"):
        del tensors[name]
    tensors["columns"], tensors["scores"] = np.arange(2), tensors["scores"][:, :2].copy()
    folder = write_run_folder(tmp_path / "maxima", fit_result())
    save_file(tensors, folder / "explanations.safetensors")
    text = HtmlPage(build_report(folder).read_text("utf-8")).text()
    assert "covers a place. Below them both scores, the true class in bold. The images" in text
    for word in ("Contributions", "Grad-CAM", "Gradient", "contributions to"):
        assert word not in text


def test_every_head_of_a_stack_shows_its_map_and_what_it_says(write_run: WriteRun) -> None:
    folder = write_run(stack_result(), [], run_filters(10, 4, 4))
    tensors = examples(blocks=2)
    tensors["block_scores"][0, 1] = np.eye(10)[5]
    save_file(tensors, folder / "explanations.safetensors")
    page = HtmlPage(build_report(folder).read_text("utf-8"))
    assert "2: dog" in page.text()
    alts = [alt for alt in page.attributes("alt") if "by the head of block" in alt]
    assert len(alts) == 12
    assert alts[1].startswith("Contributions to airplane by the head of block 2: most in the")
    assert "the maps of deep blocks are smooth" in page.text()


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 5, 9), (3, 224, 224)])
def test_images_of_any_shape_are_shown(write_run: WriteRun, shape: tuple[int, ...]) -> None:
    path = build(write_run, examples(6, shape))
    assert len(HtmlPage(path.read_text("utf-8")).all_of("img")) > 4 * 6
    assert path.stat().st_size < MAX_PAGE


def test_float_images_and_odd_numbers_are_shown(write_run: WriteRun) -> None:
    tensors = examples(2)
    tensors["images"] = tensors["images"].astype(np.float32) / 7
    tensors["occlusion"][:] = np.nan
    tensors["gradcam"][:] = 0
    assert "Test image 0" in build(write_run, tensors).read_text("utf-8")


def test_no_example_means_no_section(write_run: WriteRun) -> None:
    assert 'id="why"' not in build(write_run, examples(0)).read_text("utf-8")


def test_colours_say_for_and_against() -> None:
    values = np.array([[1.0, 0.0], [-1.0, 0.5]])
    pixels = overlay(np.full((1, 2, 2), 255, np.uint8), values).astype(int)
    distance = [np.abs(pixels - np.array(colour)).sum(2) for colour in (FOR, AGAINST)]
    assert distance[0].argmin() == 0
    assert distance[1].argmin() == 2
    assert pixels[0, 1].tolist() == [236, 236, 236]
    assert picture_of(np.zeros((3, 2, 4), np.float32)).shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": None}, "has no 'scores'"),
        ({"labels": np.arange(5)}, "do not fit together"),
        ({"occlusion": np.zeros((6, 3, 3), np.float32)}, "do not fit together"),
        ({"predicted": np.full(6, 10)}, "none of the 10"),
        ({"top": np.zeros((6, 3, 2, 2), np.float32)}, "do not fit together"),
        ({"blocks": np.zeros((6, 2, 32, 32), np.float32)}, "do not fit together"),
    ],
)
def test_damaged_explanations_are_named(
    write_run: WriteRun, change: dict[str, Any], words: str
) -> None:
    tensors = {k: v for k, v in (examples() | change).items() if v is not None}
    with pytest.raises(RunError, match=words) as raised:
        build(write_run, tensors)
    assert "delete it to report without explanations" in str(raised.value)
