"""What pictures with words in them share: a font, and the bytes of a PNG."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageFont


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """The font of matplotlib's charts, in pixels."""
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def png(picture: Image.Image, level: int = 6) -> bytes:
    """A picture as a file, compressed as far as the level (1 to 9) says."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()
