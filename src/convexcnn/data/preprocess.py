"""Images in any usual array layout to (n, channels, height, width), and their standardisation."""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convexcnn.data.dataset import Images, check_finite
from convexcnn.data.rows import ImageRows, row_blocks
from convexcnn.errors import DataError, SettingError

CHUNK = 1024
"""Images handled at once: temporaries stay small."""

MOST_NUMBERS = 2**40
"""No image has more, and no array that stands for one can be as large as the processor counts."""


def as_images(X: Any, image_shape: Sequence[int] | None = None) -> Images:
    """Bring images to (n, channels, height, width).

    Four axes are taken as channels last, (n, height, width, channels), when the last axis is 1
    or 3 and the second is neither; as channels first otherwise. Three axes are grey images,
    (n, height, width). Two axes are flattened images and need ``image_shape``.

    Args:
        X: array, nested list or torch tensor. Whole numbers in 0..255 become uint8, all other
            numbers float32.
        image_shape: (channels, height, width), (height, width, channels) or (height, width) of
            one flattened image; checked when X is not flattened. (-1, height, width) is channels
            first, with as many channels as the flattened images have.

    Returns:
        (n, channels, height, width), uint8 or float32; shares memory with X where it can.

    Raises:
        DataError: X is not numeric, has another shape, or has NaN or infinite pixels.
    """
    images = _as_pixels(X)
    image_shape = None if image_shape is None else shape_of_image(image_shape)
    if image_shape is not None and image_shape[:1] == (-1,):
        images = _with_channels(images, image_shape)
        check_finite(images, "X")
        return images
    expected = None if image_shape is None else _expected_shape(image_shape)
    if images.ndim == 2:
        images = _unflatten(images, image_shape)
    images = channels_first(images)
    if expected is not None and images.shape[1:] != expected:
        raise DataError(
            f"X has images of shape {images.shape[1:]}, but image_shape says {expected}; "
            "leave image_shape out or correct it"
        )
    check_finite(images, "X")
    return images


def channels_first(images: Images) -> Images:
    """(n, height, width), (n, height, width, channels) or channels first already, to the latter.

    Raises:
        DataError: another number of axes, or an empty one.
    """
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise DataError(
            f"X has shape {images.shape}; give images as (n, channels, height, width), "
            "(n, height, width, channels) or (n, height, width), or flattened with image_shape="
        )
    if images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = np.moveaxis(images, 3, 1)
    return images


def shape_of_image(image_shape: Sequence[int]) -> tuple[int, ...]:
    """``image_shape`` as integers, if it can be the shape of an image.

    Raises:
        SettingError: it can not.
    """
    try:
        numbers = tuple(operator.index(number) for number in image_shape)
    except TypeError:
        numbers = ()
    sides = numbers[1:] if numbers[:1] == (-1,) else numbers
    too_many = math.prod(map(abs, numbers)) > MOST_NUMBERS
    if len(numbers) not in (2, 3) or len(sides) < 2 or min(sides) < 1 or too_many:
        raise SettingError(
            f"image_shape={reprlib.repr(image_shape)} must be (channels, height, width), "
            "(height, width, channels) or (height, width), all positive whole numbers, or "
            "(-1, height, width)"
        )
    return numbers


def _with_channels(images: Images, image_shape: Sequence[int]) -> Images:
    """Flattened images to (n, channels, height, width), with as many channels as that makes."""
    size = math.prod(image_shape[1:])
    if images.ndim != 2 or not images.shape[1] or images.shape[1] % size:
        raise DataError(
            f"X has shape {images.shape}, and image_shape={tuple(image_shape)} is for flattened "
            f"images (n, channels * {size})"
        )
    return images.reshape(len(images), -1, *image_shape[1:])


def _expected_shape(image_shape: Sequence[int]) -> tuple[int, ...]:
    """What image_shape means as (channels, height, width)."""
    return channels_first(np.broadcast_to(np.uint8(0), (1, *image_shape))).shape[1:]


def _unflatten(images: Images, image_shape: Sequence[int] | None) -> Images:
    features = images.shape[1]
    if image_shape is None:
        raise DataError(
            f"X has {features} numbers per image and no image shape; "
            "say image_shape=(channels, height, width)"
        )
    if int(np.prod(image_shape)) != features:
        raise DataError(
            f"X has {features} numbers per image, but image_shape={tuple(image_shape)} "
            f"has {int(np.prod(image_shape))}"
        )
    return images.reshape(len(images), *image_shape)


def tensor_array(tensor: Any, name: str) -> NDArray[Any]:
    """The numbers of a torch tensor, wherever it is; those of bfloat16 as float32.

    Raises:
        DataError: it is sparse, or holds no numbers at all.
    """
    tensor = tensor.detach()
    try:
        if str(tensor.dtype) == "torch.bfloat16":
            tensor = tensor.float()
        array: NDArray[Any] = tensor.cpu().numpy()
    except (TypeError, RuntimeError) as error:
        raise DataError(
            f"{name} is a tensor without an array of numbers ({tensor.layout}, {tensor.dtype}, "
            f"{tensor.device}); give a dense one"
        ) from error
    return array


def _as_pixels(X: Any) -> Images:
    """An array of uint8 or float32 from an array, a tensor or nested lists."""
    if hasattr(X, "detach"):
        X = tensor_array(X, "X")
    try:
        images = np.asarray(X)
    except ValueError as error:
        raise DataError("X is ragged; all images must have one shape") from error
    if images.dtype.kind not in "buif":
        raise DataError(f"X holds {images.dtype}, not numbers; give uint8 or float images")
    if images.dtype in (np.uint8, np.float32):
        return images
    if images.dtype.kind == "b":
        return images.astype(np.uint8)
    whole = images.dtype.kind in "ui" and images.size
    if whole and images.min() >= 0 and images.max() <= 255:
        return images.astype(np.uint8)
    with np.errstate(over="ignore"):
        return images.astype(np.float32)


@dataclass(frozen=True)
class ImageScaler:
    """Per-channel standardisation, fitted on training images: z = (x - mean_c) / scale_c.

    Args:
        mean: the mean of every channel, in pixel units (0..255 for uint8 images).
        scale: the standard deviation of every channel; 1 where a channel is constant.
        centre: whether every image then also loses its own mean over all pixels and channels,
            so that no filter spends itself on how bright a picture is.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    centre: bool = False

    @classmethod
    def fit(
        cls,
        images: ImageRows,
        *,
        centre: bool = False,
        weights: NDArray[np.float64] | None = None,
    ) -> ImageScaler:
        """Measure mean and standard deviation of every channel, in float64.

        Args:
            images: (n, channels, height, width), uint8 or float32, n at least 1.
            centre: whether every image loses its own mean.
            weights: (n,) of the images; None where all weigh one.

        Returns:
            The fitted scaler.
        """
        pixels = len(images) if weights is None else weights.sum()
        pixels = pixels * images.shape[2] * images.shape[3]
        total = sum(_sums(chunk, weights, rows) for rows, chunk in _float64_chunks(images))
        mean = np.asarray(total) / pixels
        spread = sum(
            _sums(np.square(chunk - mean[:, None, None]), weights, rows)
            for rows, chunk in _float64_chunks(images)
        )
        scale = np.sqrt(np.asarray(spread) / pixels)
        scale[scale <= 1e-12 * np.maximum(1.0, np.abs(mean))] = 1.0
        return cls(tuple(mean.tolist()), tuple(scale.tolist()), centre)

    def transform(self, images: Images) -> NDArray[np.float32]:
        """Standardise images.

        Args:
            images: (n, channels, height, width), uint8 or float32.

        Returns:
            The same shape, float32, C-contiguous.

        Raises:
            DataError: another number of channels than fitted.
        """
        if images.shape[1] != len(self.mean):
            raise DataError(
                f"images have {images.shape[1]} channels, but the model was fitted on "
                f"{len(self.mean)}"
            )
        mean = np.asarray(self.mean, np.float32)[:, None, None]
        inverse = np.asarray(1 / np.asarray(self.scale), np.float32)[:, None, None]
        out = np.empty(images.shape, np.float32)
        for start in range(0, len(images), CHUNK):
            block = out[start : start + CHUNK]
            np.subtract(images[start : start + CHUNK], mean, out=block)
            np.multiply(block, inverse, out=block)
            if self.centre:
                block -= block.mean((1, 2, 3), keepdims=True)
        return out

    def to_dict(self) -> dict[str, Any]:
        """The fitted numbers, ready for JSON."""
        return {"mean": list(self.mean), "scale": list(self.scale), "centre": self.centre}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ImageScaler:
        """The scaler that ``to_dict`` described.

        Raises:
            DataError: not two lists of equally many finite numbers, with positive scales.
        """
        try:
            mean = np.asarray(fields["mean"], np.float64)
            scale = np.asarray(fields["scale"], np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("a saved scaler needs lists of numbers, mean and scale") from error
        sound = mean.ndim == 1 and mean.shape == scale.shape and mean.size > 0
        if not (
            sound and np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()
        ):
            raise DataError(
                "a saved scaler needs one finite mean and one positive scale per channel"
            )
        return cls(tuple(mean.tolist()), tuple(scale.tolist()), bool(fields.get("centre", False)))


def _sums(
    values: NDArray[np.float64], weights: NDArray[np.float64] | None, rows: slice
) -> NDArray[np.float64]:
    """Sums (channels,) of values (b, channels, height, width), weighted if images have weights."""
    if weights is not None:
        values = values * weights[rows, None, None, None]
    sums: NDArray[np.float64] = values.sum(axis=(0, 2, 3))
    return sums


def _float64_chunks(images: ImageRows) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    for rows, chunk in row_blocks(images, CHUNK):
        yield rows, chunk.astype(np.float64)
