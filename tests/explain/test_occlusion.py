"""Occlusion maps equal captum's, of any model and any window."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn.errors import DataError, SettingError
from convexcnn.explain import local_occlusion, occlusion
from convexcnn.explain.occlusion import occlusion_map
from convexcnn.explain.windows import Windows

WINDOWS = {
    "square": ((3, 4, 4), (3, 2, 2)),
    "one channel, oblong": ((1, 3, 2), (1, 3, 1)),
    "whole height": ((3, 9, 5), (3, 1, 4)),
    "cut at the edge": ((2, 5, 4), (2, 3, 3)),
}


def captums(network, images, targets, window, stride, fill):
    attribution = pytest.importorskip("captum.attr", reason="captum is not installed")
    maps = attribution.Occlusion(network).attribute(
        images, window, stride, baselines=fill, target=targets
    )
    return maps.detach().numpy()


def close(maps, expected):
    np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("window", WINDOWS)
def test_classifiers_have_the_maps_of_captum(model, data, window: str) -> None:
    images = torch.from_numpy(data[0][:3]).float()
    colour = torch.tensor(model.scaler_.mean)[None, :, None, None].expand(images.shape)
    expected = captums(model.to_torch(), images, [0, 1, 2], *WINDOWS[window], colour)
    size, stride = WINDOWS[window]
    close(occlusion_map(model, data[0][:3], [0, 1, 2], window=size, stride=stride), expected)


def test_a_classifier_without_a_block_is_asked_for_its_scores(
    model, data, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = occlusion_map(model, data[0][:2], 0, window=4)
    monkeypatch.setattr(occlusion, "has_block", lambda model: False)
    close(occlusion_map(model, data[0][:2], 0, window=4), local)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_modules_and_functions_have_the_maps_of_captum(
    convex_model, data, window: str, batch_size: int
) -> None:
    images = torch.from_numpy(data[0][:2]).float()
    network = convex_model.to_torch()
    fill = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) * 255
    size, stride = WINDOWS[window]
    expected = captums(network, images, 1, size, stride, fill)
    for scorer in (network, lambda x: network(x).detach().numpy()):
        maps = occlusion_map(
            scorer, images, 1, window=size, stride=stride, fill=fill, batch_size=batch_size
        )
        close(maps, expected)


def test_a_fill_of_one_number_is_zero_by_default_for_functions(data) -> None:
    images = torch.from_numpy(data[0][:2]).float()

    def brightness(x):
        return x.mean((1, 2, 3))[:, None]

    expected = captums(brightness, images, 0, (3, 3, 3), (3, 2, 2), 0)
    close(occlusion_map(brightness, images, window=3), expected)


def test_the_highest_score_is_explained_by_default(model, data) -> None:
    best = model.scores(data[0][:2]).argmax(1)
    maps = occlusion_map(model, data[0][:2], window=3)
    np.testing.assert_array_equal(maps, occlusion_map(model, data[0][:2], best, window=3))


def test_progress_and_short_forms_of_a_window(convex_model, data) -> None:
    steps = []
    maps = occlusion_map(
        convex_model, data[0][:2], 0, window=(3, 3), progress=lambda *step: steps.append(step)
    )
    assert steps == [(1, 2), (2, 2)]
    np.testing.assert_array_equal(maps, occlusion_map(convex_model, data[0][:2], 0, window=3))
    assert (maps[:, 0] == maps[:, 1]).all()  # a window over all channels


@pytest.mark.parametrize("window", WINDOWS)
def test_averages_are_those_of_the_masks(window: str) -> None:
    windows = Windows.of((3, 9, 9), *WINDOWS[window])
    masks = windows.masks(slice(None)).expand(-1, 3, 9, 9).double()
    drawn = torch.randn(2, len(windows), generator=torch.Generator().manual_seed(0)).double()
    expected = torch.einsum("nm,mchw->nchw", drawn, masks) / masks.sum(0)
    torch.testing.assert_close(windows.averaged(drawn), expected)
    assert len(windows.bounds) == len(windows)


def test_large_images_need_no_mask_for_every_window_at_once() -> None:
    """All 11,881 masks of an image of 224x224 are 1.8 GB."""
    windows = Windows.of((3, 224, 224))
    assert len(windows) == 109**2
    maps = windows.averaged(torch.arange(len(windows)).float()[None])
    assert maps[0, :, 0, 0].tolist() == [0, 0, 0]
    assert maps[0, 2, -1, -1] == len(windows) - 1
    assert windows.masks(slice(5, 9)).shape == (4, 1, 224, 224)


@pytest.mark.parametrize("kind", ["convex", "convex, not centred"])
def test_steps_of_one_window_change_nothing(classifiers, data, monkeypatch, kind) -> None:
    model = classifiers[kind]
    together = occlusion_map(model, data[0][:2], 0, window=3)
    monkeypatch.setattr(local_occlusion, "NUMBERS_AT_ONCE", 1)
    close(occlusion_map(model, data[0][:2], 0, window=3), together)


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [((2, 50), 1, 1), ((8, 8), 2, 2), ((28, 28), 7, 2), ((32, 32), 8, 2), ((99, 64), 8, 2)],
)
def test_windows_are_a_quarter_of_small_images(size, window: int, stride: int) -> None:
    assert Windows.of((3, *size)) == Windows.of((3, *size), window, stride)


def test_maps_of_small_images_tell_their_places_apart() -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8)
    maps = occlusion_map(lambda x: x.mean((1, 2, 3))[:, None], image)
    assert (np.diff(maps[0, 0, ::2, ::2].flatten()) > 0).all()
    assert Windows.of((3, 8, 8), (1, 1, 4)).stride == (1, 1, 2)


def test_windows_are_averaged_by_how_many_cover_a_pixel() -> None:
    windows = Windows.of((1, 3, 3), (1, 2, 2), 1)
    assert len(windows) == 4
    maps = windows.averaged(torch.tensor([[1.0, 2.0, 4.0, 8.0]]))
    assert maps[0, 0].tolist() == [[1, 1.5, 2], [2.5, 3.75, 5], [4, 6, 8]]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"window": 10}, SettingError, "choose a smaller window"),
        ({"window": 2, "stride": 3}, SettingError, "skips pixels"),
        ({"window": (1, 2, 3, 4)}, SettingError, "give a side"),
        ({"window": 3, "target": 3}, SettingError, "choose one of 0 to 2"),
        ({"window": 3, "target": [0]}, DataError, "one for each of the 2 images"),
        ({"window": 3, "fill": np.zeros(5)}, DataError, "broadcasts"),
        ({"window": 3, "fill": np.nan}, SettingError, "NaN or infinite"),
        ({"window": 3, "fill": "grey"}, SettingError, "fill or baseline is 'grey'"),
        ({"window": 3, "batch_size": 0}, SettingError, "batch_size"),
        ({"window": 3, "batch_size": 2.5}, SettingError, "batch_size is 2.5"),
        ({"window": 2.5}, SettingError, "window is 2.5"),
        ({"window": "wide"}, SettingError, "window is 'wide'"),
        ({"window": 3, "stride": "far"}, SettingError, "stride is 'far'"),
        ({"window": 3, "target": 1.5}, SettingError, "target is 1.5"),
        ({"window": 3, "target": "ash"}, SettingError, "target is 'ash'"),
    ],
)
def test_what_cannot_work_is_refused(convex_model, data, settings, error, words) -> None:
    with pytest.raises(error, match=words):
        occlusion_map(convex_model, data[0][:2], **settings)


def test_scores_of_another_shape_are_refused(data) -> None:
    with pytest.raises(DataError, match=r"must be \(n, k\)"):
        occlusion_map(lambda x: x.mean((1, 2, 3)), data[0][:2], window=3)
    with pytest.raises(SettingError, match="give a fitted classifier"):
        occlusion_map("network", data[0][:2], window=3)
