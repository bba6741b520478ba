"""The page of a fit: accuracy, the certificate in words, and what is left out when unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from html_page import HtmlPage
from synthetic_runs import WriteRun, fit_result, gabor_filters, run_filters, stack_result

from convexcnn.report import build_report
from convexcnn.report.curves import baseline_chart, beta_chart, depth_chart, descent_charts
from convexcnn.report.fit_words import certificate_words, fit_summary
from convexcnn.report.run_files import read_run


@pytest.fixture
def build(write_run: WriteRun) -> Any:
    def build_page(result: dict[str, Any], *parts: Any) -> HtmlPage:
        return HtmlPage(build_report(write_run(result, *parts)).read_text("utf-8"))

    return build_page


def test_every_section_is_there_in_order(build: Any) -> None:
    page = build(fit_result(), [], run_filters(10, 20, 40))
    assert [text for tag, text in page.texts if tag == "h2"] == [
        "Certificate",
        "Accuracy",
        "Filters",
        "Mistakes",
        "Time",
        "Data and settings",
        "Cost and machine",
        "Make it again",
    ]


def test_figures_are_those_of_the_result(build: Any) -> None:
    text = build(fit_result()).text()
    assert "74.6% of 10,000 test images classified correctly" in text
    assert (
        "50,000 training 0.1893 81.23% validation 0.2500 73.50% 10,000 test 0.2312 74.56%" in text
    )
    assert "dual value, a lower bound 0.2101234000" in text
    assert "gap / primal value 2.7\u202f×\u202f10⁻⁷" in text
    assert "statistics 4 min 4 s" in text
    assert "memory 15.6 GB" in text
    assert "convexcnn fit cifar10 --out runs/a --seed 0" in text


def test_certificate_words_say_what_is_proven_and_what_not(write_run: WriteRun) -> None:
    result = read_run(write_run(fit_result())).result
    words = certificate_words(result.blocks[0], "gated")
    assert words.startswith("Optimal among networks with these 48 gates, to a relative gap of 2.7")
    assert "nothing about networks with other gates" in words


def test_heads_on_neurons_are_named_in_the_scope(write_run: WriteRun) -> None:
    result = stack_result()
    result["blocks"][0]["certificate"]["scope"] = "optimal among heads on these 48 neurons, given"
    block = read_run(write_run(result)).result.blocks[0]
    words = certificate_words(block, "gated")
    assert words.startswith("Optimal among heads on these 48 neurons and the frozen input of this")


def test_the_exact_formulation_is_named_in_the_scope(write_run: WriteRun) -> None:
    result = read_run(write_run(fit_result() | {"formulation": "relu"})).result
    words = certificate_words(result.blocks[0], "relu")
    assert "among ReLU networks with the activation patterns of these 48 gates" in words
    assert "convex ReLU two-layer network" in fit_summary(result)


def test_what_is_no_certificate_stands_beside_it(build: Any) -> None:
    result = fit_result()
    result["blocks"][0] |= {
        "solver": {"name": "direct", "reason": "it is the smaller system", "advice": ""},
        "further_neuron": {"words": "none was found (a search, not a proof)"},
        "relu_network": {"words": "96 neurons"},
    }
    result["blocks"][0]["certificate"]["violation"] = 3e-9
    text = build(result).text()
    assert "Beside the certificate, and no part of it" in text
    assert "solver direct; it is the smaller system" in text
    assert "further neuron none was found (a search, not a proof)" in text
    assert "as a plain ReLU network 96 neurons" in text
    assert "cones left by, before it was moved back" in text


def test_a_certificate_without_a_useful_bound_is_not_left_unsaid(write_run: WriteRun) -> None:
    result = fit_result()
    result["blocks"][0]["certificate"] |= {"dual": None, "gap": None, "relative_gap": None}
    words = certificate_words(read_run(write_run(result)).result.blocks[0], "gated")
    assert words.startswith("A certificate was computed, and found no useful lower bound: how far")


def test_one_gate_is_no_plural(build: Any) -> None:
    result = fit_result()
    block = result["blocks"][0] | {"gates": 1}
    block["certificate"] |= {"scope": "optimal among networks with these 1 gates"}
    text = build(result | {"blocks": [block]}).text()
    assert "Optimal among networks with this one gate, to a relative gap" in text
    assert "scope optimal among networks with this one gate primal" in text


def test_the_penalised_formulation_is_named_in_words(build: Any) -> None:
    page = build(fit_result() | {"formulation": "relu-penalised"})
    assert "Penalised convex ReLU two-layer network on cifar10" in page.text()
    assert "A penalised convex ReLU two-layer network, trained on" in page.text()


def test_blocks_among_the_settings_are_a_line_each(build: Any) -> None:
    result = stack_result()
    blocks = [{"n_gates": 6, "gates": None, "bias": True}, {"n_gates": 9, "gates": "sgd"}]
    result["settings"] = {"blocks": blocks, "betas": [0.1, 1.0]}
    text = build(result).text()
    assert "block 1 n gates 6, bias yes block 2 n gates 9, gates sgd betas 0.1, 1" in text


def test_a_gap_of_rounding_size_is_called_that(write_run: WriteRun) -> None:
    result = fit_result()
    result["blocks"][0]["certificate"]["relative_gap"] = -3e-16
    words = certificate_words(read_run(write_run(result)).result.blocks[0], "gated")
    assert words.startswith("Optimal among networks with these 48 gates, to rounding error.")


def test_an_unsolved_program_is_not_called_optimal(write_run: WriteRun) -> None:
    result = fit_result()
    result["blocks"][0]["certificate"]["relative_gap"] = 0.034
    words = certificate_words(read_run(write_run(result)).result.blocks[0], "gated")
    assert words.startswith("Not solved to the end")
    assert "at most 3.4% lower" in words


def test_a_run_without_test_set_certificate_and_filters(build: Any) -> None:
    result = fit_result()
    result |= {"test": None, "confusion": None, "formulation": "non-convex", "phases": None}
    result["data"]["n_test"] = 0
    result["blocks"][0] |= {"test": None, "certificate": None, "path": None, "gates": None}
    text = build(result).text()
    assert "81.2% of its own training images classified correctly" in text
    assert "There were no test images" in text
    assert "A non-convex network has no certificate" in text
    assert "relative gap" not in text
    assert "Figure" not in text


def test_a_run_without_blocks_still_has_a_page(build: Any) -> None:
    result = fit_result()
    result["blocks"] = []
    assert "74.56%" in build(result).text()


def test_every_block_of_a_stack_has_its_certificate_and_row(build: Any) -> None:
    result = fit_result()
    result["blocks"] = [dict(result["blocks"][0], gates=gates) for gates in (48, 36, 24)]
    result["blocks"][1]["certificate"] = None
    text = build(result).text()
    facts = "gates · 480 neurons · its head classifies 74.6% of the test images correctly"
    assert f"Block 1 48 {facts} Optimal among networks with these 48 gates" in text
    assert f"Block 2 36 {facts} No certificate was computed" in text
    assert f"Block 3 24 {facts} Optimal among networks with these 24 gates" in text
    assert "Figure 1. Accuracy against depth: of every block's own head." in text
    assert "Figure 4. Block 3: training and validation accuracy at 13 strengths" in text


def test_the_accuracy_of_a_stack_is_drawn_against_depth(write_run: WriteRun) -> None:
    chart = depth_chart(read_run(write_run(stack_result())).result)
    assert chart is not None
    assert [line.label for line in chart.lines] == ["training", "test", "all heads"]
    assert chart.lines[1].y.tolist() == [0.7, 0.74]
    assert chart.lines[1].x.tolist() == [1, 2]
    assert "test from 70.00% to 74.00%" in chart.description


@pytest.mark.parametrize(
    ("last", "figure"),
    [(1e-7, "3.0\u202f×\u202f10⁻⁵"), (None, "not known for 1 of 3 blocks")],
)
def test_key_figures_of_a_stack_are_of_all_blocks(
    last: float | None, figure: str, build: Any
) -> None:
    result = stack_result(3)
    for block, gap in zip(result["blocks"], (1e-7, 3e-5, last), strict=True):
        block["certificate"] = dict(block["certificate"], relative_gap=gap)
    assert f"largest relative gap {figure} blocks 3 time" in build(result).text()


def test_one_block_has_no_depth(write_run: WriteRun) -> None:
    assert depth_chart(read_run(write_run(fit_result())).result) is None


def test_the_page_of_a_stack_says_what_its_certificates_are_given(build: Any) -> None:
    text = build(stack_result()).text()
    assert "A gated convex layerwise network of two blocks" in text
    assert "by the heads of its blocks: block 1 by 0.25 and block 2 by 0.75." in text
    assert "networks with these 36 gates and the frozen input of this block, to a" in text
    assert "nothing about blocks with other gates, other blocks before it, the stack as" in text
    assert "which weigh them, of all heads up to that block." in text
    assert "validation 0.3000 74.00%" in text


def baseline_entry(network: str, test: float) -> dict[str, Any]:
    """A network trained beside a stack, as the command writes it."""
    scores = {"loss": 0.8, "accuracy": test}
    curve = [
        {"seconds": 60.0 * i, "epoch": i, "validation_accuracy": test - 0.4 + 0.1 * i}
        for i in range(5)
    ]
    figures = {"minutes": 4.0, "epochs": 4.04, "parameters": 9_228_362, "curve": curve}
    return {"network": network, "train": scores, "validation": scores, "test": scores, **figures}


def stack_with_baselines() -> dict[str, Any]:
    baselines = [baseline_entry("alexnet", 0.68), baseline_entry("vgg11", 0.81)]
    return stack_result() | {"baselines": baselines}


def test_the_page_has_baselines_beside_a_stack(build: Any) -> None:
    text = build(stack_with_baselines()).text()
    assert "This stack 74.56% 81.23% 13 min 24 s – –" in text
    assert "VGG-11 81.00% 81.00% 4 min 0 s 4.0 9,228,362" in text
    assert "Level lines: networks trained by descent, on the test images." in text
    assert "Figure 2. Accuracy against time, on validation images" in text


def test_baselines_are_drawn_beside_a_stack(write_run: WriteRun) -> None:
    run = read_run(write_run(stack_with_baselines())).result
    depth, race = depth_chart(run), baseline_chart(run)
    assert depth is not None
    assert race is not None
    assert [line.label for line in depth.lines[:2]] == ["AlexNet", "VGG-11"]
    assert depth.lines[1].y.tolist() == [0.81, 0.81]
    assert "VGG-11 has 81.00%." in depth.description
    assert [line.label for line in race.lines] == ["AlexNet", "VGG-11", "this stack"]
    assert race.lines[0].x.tolist() == [0, 1, 2, 3, 4]
    assert race.lines[2].y.tolist() == [0.7, 0.74]


def test_baselines_without_test_images_have_no_level_lines(write_run: WriteRun) -> None:
    result = stack_result() | {"test": None}
    result["baselines"] = [baseline_entry("vgg11", 0.81) | {"test": None}]
    run = read_run(write_run(result)).result
    chart = depth_chart(run)
    assert chart is not None
    assert "VGG-11" not in [line.label for line in chart.lines]


def test_the_log_of_baselines_is_not_the_stacks(write_run: WriteRun) -> None:
    events = [
        {"phase": "baseline vgg11", "step": i, "train_loss": 1.0, "train_accuracy": i / 9}
        for i in range(9)
    ]
    run = read_run(write_run(stack_result(), events))
    assert descent_charts(run.metrics, "gated") == []
    assert baseline_chart(run.result) is None


def test_every_block_that_learns_its_gates_has_a_curve(build: Any) -> None:
    events = [
        {
            "phase": f"block {b}: network that lends neurons",
            "block": b,
            "step": i,
            "train_accuracy": i / 9 / b,
        }
        for b in (1, 2)
        for i in range(9)
    ]
    page = build(stack_result(), events)
    titles = [text for tag, text in page.texts if tag == "title"]
    path = "Accuracy along the path of β"
    by_block = [[path, f"Network that lends neurons, block {number}"] for number in (1, 2)]
    assert titles[2:] == by_block[0] + by_block[1]


def test_training_curves_of_a_descent_are_drawn_from_the_log(build: Any) -> None:
    events = [
        {"phase": "sgd", "step": i, "seconds": i * 0.1, "train_loss": 1 / (i + 1)}
        for i in range(30)
    ]
    page = build(fit_result() | {"formulation": "non-convex"}, events)
    titles = [text for tag, text in page.texts if tag == "title"]
    assert titles[1:] == ["Accuracy along the path of β", "Training loss"]


def test_the_descent_that_learns_gates_is_not_taken_for_the_model(build: Any) -> None:
    events = [
        {"phase": "gates", "step": i, "train_loss": 1.0, "train_accuracy": i / 30}
        for i in range(30)
    ]
    events = [{**event, "phase": "network that lends gates"} for event in events]
    for phase in ("gates", "statistics"):
        events += [{"phase": phase, "step": 1, "steps": None, "seconds": 3.0}]
    page = build(fit_result(), events)
    titles = [text for tag, text in page.texts if tag == "title"]
    assert titles[2:] == ["Training accuracy of the network that lends its gates"]


def test_the_chosen_beta_is_marked_on_the_validation_curve(write_run: WriteRun) -> None:
    result = fit_result()
    block = read_run(write_run(result)).result.blocks[0]
    chart = beta_chart(block, "path")
    assert chart is not None
    (mark,) = chart.marks
    assert mark.x == result["blocks"][0]["beta"]
    assert mark.y == max(point["validation"]["accuracy"] for point in result["blocks"][0]["path"])
    assert chart.log_x


@pytest.mark.parametrize("betas", [[0.0, 0.1, 1.0], [1e-3, 1e-3], [5.0]])
def test_odd_paths_of_beta_are_drawn_or_left_out(build: Any, betas: list[float]) -> None:
    result = fit_result()
    point = result["blocks"][0]["path"][0] | {"validation": None}
    result["blocks"][0] |= {"path": [point | {"beta": beta} for beta in betas], "beta": betas[-1]}
    assert ("Figure 1" in build(result).text()) == (len(betas) > 1)


def test_one_beta_has_no_validation_scores(build: Any) -> None:
    result = fit_result()
    point = result["blocks"][0]["path"][5] | {"validation": {}}
    result["blocks"][0]["path"] = [point]
    text = build(result).text()
    assert "50,000 training 0.1893 81.23% 10,000 test 0.2312 74.56%" in text


def test_the_caption_says_how_beta_was_chosen(build: Any) -> None:
    text = build(fit_result()).text()
    assert "chosen on the validation images: the smallest loss among the most accurate." in text


def test_one_filter_and_one_more_class_are_no_plurals(build: Any) -> None:
    names = tuple(f"c{number:02}" for number in range(21))
    page = build(fit_result(names), [], run_filters(21, 1, 1))
    alts = page.attributes("alt")
    assert "The strongest filter of class c00" in alts
    assert "Filter 1 of the non-convex network by strength" in alts
    assert "the only one per class ·" in page.text()
    assert "1 more class c20" in page.text()


@pytest.mark.parametrize("channels", [1, 2, 3, 64])
def test_filters_of_any_depth_are_shown(build: Any, channels: int) -> None:
    filters = {"non_convex": gabor_filters(5, channels, 3, 0)}
    filters["non_convex"][2] = np.nan
    page = build(fit_result(), [], filters)
    (image,) = page.all_of("img")
    assert image["alt"] == "Filters 1–5 of the non-convex network by strength"


def test_filters_of_a_model_that_lacks_a_class_have_the_names_of_theirs(
    write_run: WriteRun,
) -> None:
    """The data name classes of which there were no training images."""
    result = fit_result()
    classes = result["data"]["classes"]
    filters = run_filters(len(classes) - 1)
    columns = np.array([0, *range(2, len(classes))])
    folder = write_run(result, None, filters | {"columns": columns})
    assert read_run(folder).column_names == [classes[0], *classes[2:]]
    page = build_report(folder).read_text("utf-8")
    assert f"strongest filters of class {classes[2]}, " in page
    assert f"strongest filters of class {classes[1]}, " not in page
