"""JPEG, PNG, WebP and BMP files to one array, in parallel.

The rule for colours: if every image is grey, the array has one channel; if any has colour, all
become RGB, grey ones with three equal channels. Transparent pixels are laid over white, 16-bit grey
keeps its upper 8 bits, and a camera's EXIF rotation is applied.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from convexcnn.data.limits import MAX_IMAGE_PIXELS, machine_memory
from convexcnn.data.resize import as_box, cover
from convexcnn.data.rows import ImageRows, take_rows
from convexcnn.data.stored_rows import room_for
from convexcnn.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
EXIF_ORIENTATION = 0x0112
EXIF_SIDEWAYS = (5, 6, 7, 8)
PNG_SIGNATURE_BYTES, PNG_CHUNK_BYTES = 8, 12
NOTES = (
    *(b"eXIf", b"iTXtXML:com.adobe.xmp\0"),
    *(b"tEXtRaw profile type exif\0", b"zTXtRaw profile type exif\0"),
)
"""How chunks of a PNG begin from which Pillow takes a rotation."""

LONGEST_NOTE = 4 + max(map(len, NOTES))
USUAL_SIZE = 64
BYTES_PER_PIXEL = 24
"""What a large image takes while it is decoded, laid over white and resized."""
LEAVE_OUT = "leave it out with --skip-bad (skip_bad=True)"

AHEAD = 64
"""Images that are decoded before they are asked for."""

Item = TypeVar("Item")
Found = TypeVar("Found")


class NoneReadable(DataError):
    """Of some files that may be left out where they are damaged, none is left."""

    def __init__(self, files: int) -> None:
        super().__init__(
            f"none of {files} images can be read; give at least one JPEG or PNG that can"
        )


class ImageFile(Protocol):
    """A file with an image in it, which is a path or a part of a shard; ``str`` names it."""

    def is_file(self) -> bool: ...

    def open(self, mode: Literal["rb"]) -> IO[bytes]: ...


@dataclass(frozen=True)
class DecodedImages:
    """Image files as one array.

    Args:
        images: (n, channels, height, width), uint8, in memory or in a temporary file.
        kept: (n,), which of the given files they are.
        skipped: the files that could not be read.
    """

    images: ImageRows
    kept: NDArray[np.intp]
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Header:
    """What the first bytes of an image file say."""

    height: int
    width: int
    grey: bool


def read_images(
    paths: Sequence[str | ImageFile],
    *,
    channels: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    skip_bad: bool = False,
    room: float | None = None,
) -> DecodedImages:
    """Decode image files of one size, or bring them to one.

    Args:
        paths: the files.
        channels: 1 for grey, 3 for RGB; by default 1 only if all images are grey.
        image_size: side, or (height, width), to bring all images to: resized (bilinear) until
            they just cover it, then the centre is cut out. By default all must have one size.
        skip_bad: leave out files that cannot be decoded instead of stopping at the first.
        room: bytes that the images may take in memory, instead of a temporary file that goes with
            them; None for as many as the machine has.

    Returns:
        The images in the order of the files, and which were left out.

    Raises:
        DataError: a file cannot be decoded, sizes differ, or the images do not fit in memory.
        RunError: nor on the disk.
        SettingError: ``image_size`` is not positive.
    """
    files = [Path(path) if isinstance(path, str) else path for path in paths]
    box = None if image_size is None else as_box(image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata and large images
        headers = _read_headers(files, skip_bad)
        if not headers:
            raise NoneReadable(len(files))
        if channels is None:
            channels = 1 if all(header.grey for header in headers.values()) else 3
        if box is None:
            box = _common_size(files, headers)
        shape = len(headers), channels, *box
        images = room_for(shape, np.uint8, room, f"{len(headers)} images")
        decode = partial(_attempt, partial(_decode, channels=channels, box=box))
        kept: list[int] = []
        with ThreadPoolExecutor(_threads(headers.values())) as pool:
            pictures = _ahead(pool, decode, (files[row] for row in headers))
            for row, pixels in zip(headers, pictures, strict=True):
                if _is_sound(pixels, skip_bad):
                    images[len(kept) : len(kept) + 1] = pixels[None]
                    kept.append(row)
    if not kept:
        raise NoneReadable(len(files))
    skipped = sorted(set(range(len(files))) - set(kept))
    return DecodedImages(
        take_rows(images, slice(len(kept))),
        np.asarray(kept, np.intp),
        tuple(str(files[row]) for row in skipped),
    )


def common_kind(paths: Sequence[ImageFile], image_size: int | None) -> tuple[int, int, int]:
    """Channels, height and width that some files are read as, from their headers alone.

    Args:
        paths: at least one file; those that cannot be read are left out.
        image_size: side that they are brought to; None if all must have one size.

    Raises:
        DataError: none can be read, or sizes differ.
    """
    headers = _read_headers(paths, skip_bad=True)
    if not headers:
        raise NoneReadable(len(paths))
    channels = 1 if all(header.grey for header in headers.values()) else 3
    box = _common_size(paths, headers) if image_size is None else as_box(image_size)
    return channels, *box


def _read_headers(files: Sequence[ImageFile], skip_bad: bool) -> dict[int, _Header]:
    """The headers of all files that have a sound one, by place in the list."""
    with ThreadPoolExecutor() as pool:
        return {
            row: header
            for row, header in enumerate(_ahead(pool, partial(_attempt, _read_header), files))
            if _is_sound(header, skip_bad)
        }


def _threads(headers: Iterable[_Header]) -> int:
    """As many threads as there are processors, or as may hold the largest image at once."""
    largest = max(header.height * header.width for header in headers)
    at_once = machine_memory() // (4 * largest * BYTES_PER_PIXEL)
    return max(1, min(os.cpu_count() or 1, at_once))


def is_image_file(path: Path) -> bool:
    """Whether a file's name says that it is an image that can be read."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Found], items: Iterable[Item]
) -> Iterator[Found]:
    """Results in order, of which only a few wait in memory however slowly they are taken."""
    waiting: deque[Future[Found]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _attempt(read: Callable[[ImageFile], Found], path: ImageFile) -> Found | DataError:
    """What ``read`` finds in the file, or an error that names it."""
    try:
        if not path.is_file():
            return DataError(f"{path}: there is no such file; correct its name, or {LEAVE_OUT}")
        return read(path)
    except (DataError, MemoryError):  # a shard that has gone, say: no fault of this one image
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        return DataError(
            f"{path}: cannot be read as an image ({error}); repair or remove it, or {LEAVE_OUT}"
        )


def _is_sound(found: Found | DataError, skip_bad: bool) -> TypeGuard[Found]:
    """Whether a file was read; a bad one ends everything unless it may be skipped."""
    if not isinstance(found, DataError):
        return True
    if not skip_bad:
        raise found
    return False


@contextmanager
def _open(path: ImageFile) -> Iterator[Image]:
    """An image whose header is read and whose pixels are not."""
    from PIL import Image

    with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are too many")
        yield image


def _read_header(path: ImageFile) -> _Header:
    with _open(path) as image:
        sideways = _exif(image).get(EXIF_ORIENTATION) in EXIF_SIDEWAYS
        height, width = (image.width, image.height) if sideways else (image.height, image.width)
        return _Header(height, width, image.mode in GREY_MODES)


def _exif(image: Image) -> Mapping[int, object]:
    """What a camera noted; the pixels of a PNG are only decoded if such notes come after them."""
    from PIL.Image import Image as AnyImage
    from PIL.PngImagePlugin import PngImageFile

    late = isinstance(image, PngImageFile) and _has_late_notes(image.fp)
    return image.getexif() if late else AnyImage.getexif(image)


def _has_late_notes(file: Any) -> bool:
    """Whether chunks that may hold a rotation come after the pixels of a PNG."""
    began, place = file.tell(), PNG_SIGNATURE_BYTES
    pixels = found = False
    file.seek(place)
    while not found and len(start := file.read(LONGEST_NOTE)) >= PNG_CHUNK_BYTES:
        pixels |= start[4:8] == b"IDAT"
        found = pixels and start[4:].startswith(NOTES)
        place += PNG_CHUNK_BYTES + int.from_bytes(start[:4])
        file.seek(place)
    file.seek(began)
    return found


def _common_size(files: Sequence[ImageFile], headers: dict[int, _Header]) -> tuple[int, int]:
    """The size that all images have."""
    first, *others = headers
    height, width = headers[first].height, headers[first].width
    for row in others:
        other = headers[row]
        if (other.height, other.width) != (height, width):
            side = min(USUAL_SIZE, *(min(h.height, h.width) for h in headers.values()))
            raise DataError(
                f"images of mixed size: {files[first]} is {width}x{height}, {files[row]} "
                f"{other.width}x{other.height}; resize all, such as with --image-size {side} "
                f"(image_size={side})"
            )
    return height, width


def _decode(path: ImageFile, channels: int, box: tuple[int, int]) -> NDArray[np.uint8]:
    """Pixels of one file, (channels, height, width)."""
    from PIL import ImageOps

    with _open(path) as image:
        if image.size != (box[1], box[0]):
            image.draft(None, (2 * max(box), 2 * max(box)))  # JPEG: decode large ones at 1/2 to 1/8
        upright = ImageOps.exif_transpose(image)
        pixels = np.asarray(cover(_in_colours(upright, channels), box))
    return pixels.reshape(*box, channels).transpose(2, 0, 1)


def _in_colours(image: Image, channels: int) -> Image:
    """The image with one grey or three colour channels of 8 bits."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        clear = values == image.info.get("transparency", -1)
        upper = np.where(clear, 255, values >> 8)
        image = Image.fromarray(upper.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("L" if channels == 1 else "RGB")
