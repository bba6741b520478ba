"""The README.md that goes with a saved model: what it is, what it takes, how it is loaded."""

from __future__ import annotations

import json
from typing import Any

CARD_START = "---\nlibrary_name: convexcnn\n"
"""By which a card is known for one of these."""

TEMPLATE = """pipeline_tag: image-classification
tags:
- convexcnn
- convex-optimization
---

# {kind}

An image classifier of {k} classes, trained by [convexcnn](https://pypi.org/project/convexcnn)
{version} on {images:,} images. {about}

It takes images of {channels} x {height} x {width} (channels, height, width), in the units of its
training images: 0 to 255 for pictures. Scaling is part of the model.

```python
from convexcnn import load_model

model = load_model("this-folder")
model.predict_proba(images)
```

Without Python code of your own: `convexcnn predict this-folder pictures/`{export}.

## Classes

{classes}

## Parameters

{parameters}

The files are `config.json` and `model.safetensors`; nothing in them is executed.
"""

ABOUT = {
    "LayerwiseConvexCNN": "Every block is the optimum of a convex program, given the frozen maps "
    "of the block before: `model.certify(images, labels)` proves how near.",
    "EndToEndCNN": "It is a usual network, trained as a whole by back-propagation.",
    "GreedyCNN": "It is a stack of blocks, each trained by stochastic gradients with a head of its "
    "own, those before it frozen.",
    "NonConvexConvClassifier": "It is a two-layer network, trained by stochastic gradients.",
}

EXPORT = "; as ONNX:\n`convexcnn export this-folder model.onnx --to onnx`"


def model_card(description: dict[str, Any], names: list[str], version: str) -> str:
    """Return the text of a model card, in Markdown.

    Names and parameters stand in it as JSON in indented code, where nothing of them is markup.

    Args:
        description: what `config.json` holds.
        names: of the classes.
        version: of this package.
    """
    channels, height, width = description["image_shape"]
    return CARD_START + TEMPLATE.format(
        kind=description["class"],
        k=len(names),
        version=version,
        images=description["training"]["images"],
        about=_about(description),
        export="" if description["parameters"].get("pool") == "max" else EXPORT,
        channels=channels,
        height=height,
        width=width,
        classes=_code(names),
        parameters=_code(description["parameters"]),
    )


def _about(description: dict[str, Any]) -> str:
    """How a model was trained, and what can be proven of it."""
    if description["class"] != "ConvexConvClassifier":
        return ABOUT[description["class"]]
    parameters = description["parameters"]
    if parameters["formulation"] == "relu-penalised":
        return (
            "Its only layer of filters was trained by stochastic gradients on a convex program "
            "over fixed gates, with its constraints as a penalty: there is no certificate of it."
        )
    # a solver that was given as an object is not among the parameters, and may be SGD
    solved = parameters.get("solver", "sgd") != "sgd"
    layer = f"Its only layer of filters {'is the optimum of' if solved else 'was trained on'}"
    program = "a convex program over fixed gates"
    if not description["numbers"]["beta_"] > 0:
        return f"{layer} {program}, without a regulariser: there is no certificate of it."
    near = "how near" if solved else "how near it is to the optimum"
    return (
        f"{layer} {program}: `model.certify(images, labels)` proves {near}, given the training "
        "images."
    )


def _code(value: Any) -> str:
    """A value as JSON in an indented block of Markdown code."""
    return "\n".join(f"    {line}" for line in json.dumps(value, indent=2).splitlines())
