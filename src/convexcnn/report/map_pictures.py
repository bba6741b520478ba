"""Maps as pictures: laid over the image in grey, orange speaks for the class and blue against."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from convexcnn.report.drawing import font_of, png
from convexcnn.report.formatting import one_line

Pixels = NDArray[np.uint8]
FOR, AGAINST = (214, 84, 14), (22, 84, 158)
_PAPER = 236.0
_STRONGEST = 0.88  # opacity of the largest value
_PANEL = 224  # least side of a picture in a figure, in pixels
_LARGEST = 160  # side of a picture on a page
_COLOURS = 128  # of a picture on a page


def picture_of(image: NDArray[np.generic]) -> Pixels:
    """An image (channels, height, width) as it is seen, (height, width, 3).

    One channel is drawn grey, three in colour, any other number as the mean over channels. What
    is not uint8 is stretched over the range from its smallest to its largest value.
    """
    values = image.astype(np.float64)
    if image.dtype != np.uint8:
        low, high = float(values.min()), float(values.max())
        values = (values - low) * (255 / (high - low) if high > low else 0.0)
    if len(values) not in (1, 3):
        values = values.mean(axis=0, keepdims=True)
    colours = np.broadcast_to(np.rint(values), (3, *values.shape[1:]))
    return colours.transpose(1, 2, 0).astype(np.uint8)


def overlay(image: NDArray[np.generic], values: NDArray[np.floating]) -> Pixels:
    """A map (height, width) over its image: opacity |v| / max |v|, colour by sign.

    The largest value is the 99.5 % quantile of |v|, so that one pixel cannot hide the rest.
    """
    grey = picture_of(image).mean(axis=2, keepdims=True)
    ground = _PAPER - 0.45 * (255.0 - grey)
    largest = float(np.quantile(np.abs(values), 0.995))
    strength = np.clip(np.abs(values) / largest, 0, 1) if largest > 0 else np.zeros_like(values)
    opacity = _STRONGEST * strength[..., None]
    colour = np.where(values[..., None] > 0, np.array(FOR), np.array(AGAINST))
    mixed: Pixels = np.rint(ground * (1 - opacity) + colour * opacity).clip(0, 255).astype(np.uint8)
    return mixed


def data_uri(pixels: Pixels, side: int = _LARGEST) -> str:
    """A picture for a page: at most so many pixels a side, and in a palette of its own."""
    picture = Image.fromarray(pixels, "RGB")
    if max(picture.size) > side:
        picture.thumbnail((side, side))
    few = picture.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return f"data:image/png;base64,{base64.b64encode(png(few, 9)).decode('ascii')}"


def figure(panels: Sequence[tuple[str, Pixels]], note: str) -> bytes:
    """A PNG of titled pictures of one size beside each other, with a line of text under them."""
    height, width = panels[0][1].shape[:2]
    scale = max(1, -(-_PANEL // max(height, width)))
    height, width, gap = height * scale, width * scale, 16
    font = font_of(15)
    note = one_line(note)
    total = max(gap + len(panels) * (width + gap), 2 * gap + round(font.getlength(note)))
    sheet = Image.new("RGB", (total, height + 84), "white")
    draw = ImageDraw.Draw(sheet)
    for position, (title, pixels) in enumerate(panels):
        left = gap + position * (width + gap)
        draw.text((left, 26), one_line(title), fill="#1c1b19", font=font, anchor="ls")
        large = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
        sheet.paste(Image.fromarray(large, "RGB"), (left, 36))
    draw.text((gap, height + 64), note, fill="#6b6760", font=font, anchor="ls")
    return png(sheet, 9)
