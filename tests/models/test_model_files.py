"""Models survive their files to the last bit; damaged files are refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from convexcnn.errors import RunError
from convexcnn.models import ConvexConvClassifier, load_model, save_model
from convexcnn.models.model_card import model_card
from convexcnn.models.whole_files import write_arrays
from files_on_disk import closed
from small import stripes
from tiny_models import convex, non_convex

IMAGES, LABELS = stripes(60)

VARIANTS = {
    "convex": convex,
    "convex on pixels": lambda: convex(whiten=None, gates="gaussian", centre=False, pooling=1),
    "convex, one beta": lambda: convex(betas=(0.1,), augment="none", random_state=5),
    "non-convex": non_convex,
    "non-convex on pixels": lambda: non_convex(whiten=None, stride=1, padding=1),
}


def assert_same(found, model):
    """The loaded model is the saved one, in every tensor, number, parameter and score."""
    assert type(found) is type(model)
    for name in model.tensors:
        assert torch.equal(getattr(found, name), getattr(model, name))
    for name in model.numbers:
        assert getattr(found, name) == getattr(model, name)
    for name in ("image_shape_", "n_features_in_", "n_train_", "scaler_"):
        assert getattr(found, name) == getattr(model, name)
    np.testing.assert_array_equal(found.classes_, model.classes_)
    assert found.classes_.dtype == model.classes_.dtype
    np.testing.assert_array_equal(found.scores(IMAGES), model.scores(IMAGES))
    np.testing.assert_array_equal(found.predict_proba(IMAGES), model.predict_proba(IMAGES))


@pytest.mark.parametrize("maker", VARIANTS.values(), ids=VARIANTS)
def test_a_model_survives_its_files(maker, tmp_path):
    model = maker().fit(IMAGES, LABELS)
    save_model(model, tmp_path / "new" / "folder")
    found = load_model(str(tmp_path / "new" / "folder"))
    assert_same(found, model)
    assert found.get_params() == model.get_params() | {"solver": found.solver}
    assert [p.name for p in sorted((tmp_path / "new" / "folder").iterdir())] == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(
    "names",
    [("ash", "beech", "cedar"), (7, -2, 30), (0.5, 1.0, 5.0), np.longdouble([1, 2, 3])],
)
def test_labels_come_back_as_they_were(make, names, tmp_path):
    y = np.array(names)[LABELS]
    if y.dtype.kind == "f":
        y = np.rint(2 * y)
    model = make().fit(IMAGES, y)
    save_model(model, tmp_path)
    found = load_model(tmp_path)
    assert_same(found, model)
    np.testing.assert_array_equal(found.predict(IMAGES), model.predict(IMAGES))


def test_names_of_classes_and_data_come_back(model, tmp_path):
    model.class_names, model.fingerprint_ = ("across", "along", "askew"), "0123abcd"
    try:
        save_model(model, tmp_path)
    finally:
        del model.class_names, model.fingerprint_
    found = load_model(tmp_path)
    assert found.class_names == ("across", "along", "askew")
    assert found.fingerprint_ == "0123abcd"


def test_parameters_made_by_numpy_come_back(tmp_path):
    """As a grid search sets them: an integer that is dropped would come back as the default."""
    settings = {"stride": np.int64(1), "betas": [np.float32(0.5)], "filter_size": np.int32(4)}
    model = convex(**settings).fit(IMAGES, LABELS)
    save_model(model, tmp_path)
    found = load_model(tmp_path)
    assert_same(found, model)
    assert (found.stride, found.betas, found.filter_size) == (1, (0.5,), 4)


@pytest.mark.parametrize(
    ("keys", "labels"),
    [
        ((0, 1, 2), LABELS % 2),
        ((0, 1, 2), LABELS.astype(float)),
        ((0.0, 1.0, 2.0), LABELS),
        ((False, True), LABELS > 0),
        (("ash", "beech", "cedar", "dogwood"), np.array(["ash", "beech", "cedar"])[LABELS]),
    ],
    ids=["more keys than classes", "integers for floats", "floats", "truths", "names"],
)
def test_weights_of_classes_come_back(keys, labels, tmp_path):
    weights = {key: 1.0 + number for number, key in enumerate(keys)}
    model = convex(gates="gaussian", betas=0.1, class_weight=weights).fit(IMAGES, labels)
    save_model(model, tmp_path)
    found = load_model(tmp_path)
    assert found.class_weight == weights
    assert found.certify(IMAGES, labels) == model.certify(IMAGES, labels)
    np.testing.assert_array_equal(found.fit(IMAGES, labels).scores(IMAGES), model.scores(IMAGES))


@pytest.mark.parametrize("labels", [np.array(["p", "q"])[LABELS % 2], LABELS + 5, LABELS])
def test_a_loaded_model_that_trains_again_forgets_the_names_of_its_data(model, labels, tmp_path):
    save_model(model, tmp_path)
    found = load_model(tmp_path)
    found.class_names, found.fingerprint_ = ("across", "along", "askew"), "0123abcd"
    save_model(found, tmp_path)
    found = load_model(tmp_path).fit(IMAGES, labels)
    assert found.column_names() == [str(label) for label in np.unique(labels)]
    save_model(found, tmp_path)
    assert getattr(load_model(tmp_path), "fingerprint_", None) is None


def test_a_loaded_model_is_certified_like_the_trained_one(trained, tmp_path):
    save_model(trained["convex"], tmp_path)
    found = load_model(tmp_path)
    assert isinstance(found, ConvexConvClassifier)
    assert found.certify(IMAGES, LABELS) == trained["convex"].certify(IMAGES, LABELS)
    np.testing.assert_allclose(
        found.filters()["convex"], trained["convex"].filters()["convex"], atol=1e-7
    )


def test_a_model_trained_elsewhere_predicts_here(model, tmp_path):
    """Its parameters may name a device that this machine has not."""
    save_model(model, tmp_path)
    setting("parameters", "device", value="cuda:7")(tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).scores(IMAGES), model.scores(IMAGES))


def test_a_loaded_model_trains_again(model, tmp_path):
    save_model(model, tmp_path)
    found = load_model(tmp_path)
    assert found.fit(IMAGES, LABELS).score(IMAGES, LABELS) > 0.8


def test_saving_replaces_the_files_whole(trained, tmp_path):
    save_model(trained["convex"], tmp_path)
    save_model(trained["non-convex"], tmp_path)
    assert_same(load_model(tmp_path), trained["non-convex"])


def test_an_untrained_model_is_not_saved(make, tmp_path):
    with pytest.raises(RunError, match="the model is not trained; call fit"):
        save_model(make(), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_folder_that_cannot_be_made_is_named(model, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RunError, match="taken: the model cannot be written"):
        save_model(model, tmp_path / "taken")


# Damage


def rewrite_json(change):
    def damage(folder):
        path = folder / "config.json"
        description = json.loads(path.read_text())
        path.write_text(json.dumps(change(description) or description))

    return damage


def rewrite_tensors(change):
    def damage(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return damage


def setting(*keys, value):
    """Put a value deep into config.json."""

    def change(description):
        for key in keys[:-1]:
            description = description[key]
        description[keys[-1]] = value

    return rewrite_json(change)


def tensor(name, change):
    """Replace one tensor by a function of it."""
    return rewrite_tensors(lambda tensors: tensors.update({name: change(tensors[name])}))


def with_nan(x):
    x = x.clone()
    x.view(-1)[-1] = torch.nan
    return x


def truncate(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-7])


MISFIT = "do not fit together"
DAMAGE = {
    "no json": (lambda f: (f / "config.json").unlink(), r"config\.json is missing"),
    "no tensors": (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors is missing"),
    "truncated json": (truncate("config.json"), r"config\.json cannot be read as JSON"),
    "truncated tensors": (truncate("model.safetensors"), r"model\.safetensors is damaged"),
    "binary json": (
        lambda f: (f / "config.json").write_bytes(b"\x80\x04\x95"),
        r"config\.json cannot be read as JSON",
    ),
    "empty tensors": (lambda f: (f / "model.safetensors").write_bytes(b""), "is damaged"),
    "pickled tensors": (lambda f: torch.save({}, f / "model.safetensors"), "is damaged"),
    "json is a list": (lambda f: (f / "config.json").write_text("[1]"), "has format None"),
    "future format": (setting("format", value=2), "has format 2; this version reads format 1"),
    "no format": (rewrite_json(lambda d: d.pop("format") and None), "has format None"),
    "unknown class": (setting("class", value="Oracle"), "names the model 'Oracle', which is not"),
    "class is a list": (setting("class", value=["x"]), "which is not known"),
    "NaN tensor": (tensor("coef_", with_nan), "coef_ is not finite float32"),
    "float64 tensor": (tensor("coef_", torch.Tensor.double), "coef_ is not finite float32"),
    "missing tensor": (rewrite_tensors(lambda t: t.pop("coef_")), MISFIT),
    "flat tensor": (tensor("coef_", torch.Tensor.flatten), "coef_ has shape"),
    "one weight less": (tensor("coef_", lambda x: x[..., :-1].contiguous()), "coef_ has shape"),
    "one class less": (tensor("intercept_", lambda x: x[:-1].clone()), "intercept_ has shape"),
    "wrong projection": (
        tensor("transform.projection", lambda x: x[:-1].clone()),
        r"transform\.projection has shape",
    ),
    "scalar projection": (tensor("transform.projection", torch.Tensor.sum), MISFIT),
    "wrong mean": (tensor("transform.mean", lambda x: x[:-1].clone()), r"transform\.mean has"),
    "other filter": (setting("parameters", "filter_size", value=4), "has shape"),
    "impossible filter": (setting("parameters", "filter_size", value=40), "larger than the"),
    "filter is a word": (setting("parameters", "filter_size", value="big"), MISFIT),
    "unknown parameter": (setting("parameters", "colour", value="blue"), MISFIT),
    "parameters are a list": (setting("parameters", value=[]), MISFIT),
    "one class name more": (setting("classes", value=["a", "b", "c", "d"]), "has shape"),
    "classes are a number": (setting("classes", value=3), MISFIT),
    "other image": (setting("image_shape", value=[3, 8, 8]), MISFIT),
    "flat image": (setting("image_shape", value=[64]), MISFIT),
    "bad scaler": (setting("scaler", value={"mean": [0.0], "scale": [0.0]}), "a saved scaler"),
    "scaler of colours": (
        setting("scaler", value={"mean": [0.0] * 3, "scale": [1.0] * 3}),
        "the scaler has another number of channels",
    ),
    "no scaler": (rewrite_json(lambda d: d.pop("scaler") and None), MISFIT),
    "beta is NaN": (setting("numbers", "beta_", value=float("nan")), "beta_ is nan"),
    "no temperature": (rewrite_json(lambda d: d["numbers"].pop("temperature_") and None), MISFIT),
    "infinitely many images": (setting("training", "images", value=float("inf")), MISFIT),
    "no training": (setting("training", value=None), MISFIT),
}


@pytest.mark.parametrize(("damage", "complaint"), DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_refused_by_name(model, damage, complaint, tmp_path):
    save_model(model, tmp_path)
    damage(tmp_path)
    with pytest.raises(RunError, match=complaint) as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError, match="is this the folder of a finished run"):
        load_model(tmp_path / "nowhere")


def test_nothing_is_left_of_a_write_that_fails(model, tmp_path, monkeypatch):
    save_model(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"cannot be written \(No space left on device\)"):
        save_model(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_is_named(model, tmp_path, monkeypatch):
    """In the words of safetensors, which raises no OSError."""
    why = "Error while serializing: I/O error: No space left on device (os error 28)"

    def full(*arguments):
        raise SafetensorError(why)

    monkeypatch.setattr("convexcnn.models.whole_files.save_file", full)
    monkeypatch.setattr("convexcnn.models.whole_files.save_arrays", full)
    with pytest.raises(RunError, match=r"run: the model cannot be written .No space"):
        save_model(model, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
    with pytest.raises(RunError, match=r"filters: cannot be written .No space left .* free some"):
        write_arrays(tmp_path / "filters", {"convex": np.zeros(3)})


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_may_not_be_read_is_not_called_missing_or_damaged(
    name, model, tmp_path, monkeypatch
):
    save_model(model, tmp_path)
    closed(monkeypatch, name)
    with pytest.raises(RunError, match=f"{name} cannot be read .Permission denied.; see to its"):
        load_model(tmp_path)


def test_models_of_the_first_layout_are_read(model, tmp_path):
    save_model(model, tmp_path)
    (tmp_path / "README.md").unlink()
    (tmp_path / "config.json").rename(tmp_path / "model.json")
    np.testing.assert_array_equal(load_model(tmp_path).scores(IMAGES), model.scores(IMAGES))


def test_the_card_says_what_the_model_is_and_names_are_no_markup(tmp_path):
    names = np.array(["<script>alert(1)</script>", "b\n# heading", "`c`](x)"])
    model = convex(betas=0.1).fit(IMAGES, names[LABELS])
    save_model(model, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: convexcnn\n")
    assert "# ConvexConvClassifier" in card
    assert "1 x 8 x 8 (channels, height, width)" in card
    assert "on 60 images" in card
    outside = [line for line in card.splitlines() if not line.startswith("    ")]
    assert not any("script" in line or "heading" in line or "](x)" in line for line in outside)


CERTIFY, EXPORT = "`model.certify(images, labels)` proves", "convexcnn export"


@pytest.mark.parametrize(
    ("parameters", "beta", "about", "offers"),
    [
        ({}, 0.1, f"is the optimum of a convex program over fixed gates: {CERTIFY} how near,", 2),
        ({"solver": "sgd"}, 0.1, f"was trained on a convex program over fixed gates: {CERTIFY}", 2),
        ({"solver": None}, 0.1, "how near it is to the optimum, given", 2),
        ({"solver": "sgd"}, 0.0, "without a regulariser: there is no certificate of it.", 1),
        ({"solver": "sgd", "formulation": "relu-penalised"}, 0.1, "constraints as a penalty", 1),
        ({"pool": "max"}, 0.1, "is the optimum of", 1),
    ],
)
def test_the_card_promises_only_what_the_model_has(parameters, beta, about, offers):
    settings = {"formulation": "gated", "solver": "auto", "pool": "average"} | parameters
    description = {
        "class": "ConvexConvClassifier",
        "image_shape": [1, 8, 8],
        "parameters": {name: value for name, value in settings.items() if value is not None},
        "numbers": {"beta_": beta},
        "training": {"images": 60},
    }
    card = model_card(description, ["a", "b"], "1.0")
    assert about in card
    assert (CERTIFY in card) + (EXPORT in card) == offers


def test_a_readme_of_another_kind_is_left_alone(model, tmp_path):
    (tmp_path / "README.md").write_text("# My project")
    save_model(model, tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My project"
