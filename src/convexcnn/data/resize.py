"""Images to a common size: resized (bilinear) until they just cover it, the centre cut out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from convexcnn.data.arguments import check_whole
from convexcnn.data.dataset import ImageDataset, ImageSplit
from convexcnn.data.rows import ImageRows, row_blocks
from convexcnn.data.stored_rows import room_for
from convexcnn.errors import SettingError

LARGEST_SIDE = 2**31 - 1
"""What image formats can say."""

if TYPE_CHECKING:
    from PIL.Image import Image


def as_box(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a side or of a pair already.

    Raises:
        SettingError: a side is no positive whole number, or larger than any image.
    """
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    for side in height, width:
        check_whole("image_size", side, 1)
        if side > LARGEST_SIDE:
            raise SettingError(f"image_size is {image_size}; no image is so large")
    return height, width


def cover(image: Image, box: tuple[int, int]) -> Image:
    """Resize a Pillow image (bilinear) until it just covers (height, width), and cut the centre."""
    from PIL import Image, ImageOps

    height, width = box
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)


def resize_images(
    images: ImageRows, image_size: int | tuple[int, int], *, room: float | None = None
) -> ImageRows:
    """Bring images to another size.

    Args:
        images: (n, channels, height, width), uint8 or float32.
        image_size: side, or (height, width), of the result.
        room: bytes that the result may take in memory, instead of a temporary file; None for as
            many as the machine has.

    Returns:
        (n, channels, *image_size) of the same type; the images themselves if they have that size.

    Raises:
        DataError: the result does not fit in memory.
        RunError: nor on the disk.
        SettingError: the size is not positive.
    """
    from PIL import Image

    box = as_box(image_size)
    if images.shape[2:] == box:
        return images
    n, channels = images.shape[:2]
    out = room_for((n, channels, *box), images.dtype, room, f"{n} resized images")
    for rows, block in row_blocks(images):
        resized = np.empty((len(block), channels, *box), images.dtype)
        for i, c in np.ndindex(resized.shape[:2]):
            resized[i, c] = cover(Image.fromarray(np.ascontiguousarray(block[i, c])), box)
        out[rows] = resized
    return out


def resize_dataset(
    dataset: ImageDataset, image_size: int, *, room: float | None = None
) -> ImageDataset:
    """The same problem with images of another size, which may take ``room`` bytes in memory."""

    def resized(split: ImageSplit) -> ImageSplit:
        return ImageSplit(resize_images(split.images, image_size, room=room), split.labels)

    test = None if dataset.test is None else resized(dataset.test)
    return replace(dataset, train=resized(dataset.train), test=test)
