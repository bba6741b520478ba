"""Image files to arrays: colours, sizes, damage and bombs."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from convexcnn.data import decode as decode_module
from convexcnn.data import limits, read_images
from convexcnn.data.decode import common_kind
from convexcnn.errors import DataError, SettingError

GREY = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.fixture
def save(tmp_path):
    """A function that saves an array or a Pillow image and returns its path."""

    def write(name, picture, **options):
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return write


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
def test_lossless_files_come_back_exactly(save, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    found = read_images([save(f"a.{suffix}", RGB, **options)] * 3)
    assert found.images.shape == (3, 3, 6, 8)
    np.testing.assert_array_equal(found.images[2], RGB.transpose(2, 0, 1))
    np.testing.assert_array_equal(found.kept, [0, 1, 2])
    assert found.skipped == ()


def test_a_jpeg_comes_back_nearly(save):
    smooth = np.broadcast_to(np.arange(0, 240, 30, dtype=np.uint8)[:, None], (6, 8, 3)).copy()
    found = read_images([save("a.jpg", smooth, quality=95)])
    assert np.abs(found.images[0].astype(int) - smooth.transpose(2, 0, 1)).max() < 8


def test_a_jfif_is_a_jpeg(save, tmp_path):
    path = save("a.jpg", GREY).rename(tmp_path / "a.JFIF")
    assert decode_module.is_image_file(path)
    assert read_images([path]).images.shape == (1, 1, 6, 8)


def test_grey_images_alone_stay_grey_and_become_rgb_among_colour(save):
    grey, colour = save("grey.png", GREY), save("colour.png", RGB)
    alone = read_images([grey, grey]).images
    assert alone.shape == (2, 1, 6, 8)
    np.testing.assert_array_equal(alone[0, 0], GREY)
    mixed = read_images([grey, colour]).images
    np.testing.assert_array_equal(mixed[0], np.stack([GREY] * 3))
    np.testing.assert_array_equal(mixed[1], RGB.transpose(2, 0, 1))


def test_the_number_of_channels_can_be_demanded(save):
    grey, colour = save("grey.png", GREY), save("colour.png", RGB)
    assert read_images([grey], channels=3).images.shape == (1, 3, 6, 8)
    luma = read_images([colour], channels=1).images[0, 0]
    np.testing.assert_allclose(luma, RGB @ [0.299, 0.587, 0.114], atol=1)


def test_a_palette_is_resolved_to_its_colours(save):
    picture = Image.fromarray(RGB).quantize(16)
    found = read_images([save("a.png", picture)]).images[0]
    np.testing.assert_array_equal(found, np.asarray(picture.convert("RGB")).transpose(2, 0, 1))


def test_transparency_is_laid_over_white(save):
    alpha = np.zeros((6, 8), np.uint8)
    alpha[3:] = 255
    found = read_images([save("a.png", np.dstack([RGB, alpha]))]).images[0]
    assert (found[:, :3] == 255).all()
    np.testing.assert_array_equal(found[:, 3:], RGB[3:].transpose(2, 0, 1))
    grey = read_images([save("b.png", np.dstack([GREY, alpha]))]).images
    assert grey.shape == (1, 1, 6, 8)
    assert (grey[0, 0, :3] == 255).all()


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


ROTATED = Image.Exif()
ROTATED[0x0112] = 6
XMP = b'<x xmlns:tiff="t" tiff:Orientation="6"/>'
NOTES = {
    "eXIf": (b"eXIf", ROTATED.tobytes().removeprefix(b"Exif\0\0")),
    "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "raw profile": (
        b"tEXt",
        b"Raw profile type exif\0\nexif\n%d\n%s" % (26, ROTATED.tobytes().hex().encode()),
    ),
}


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("note", NOTES)
def test_a_rotation_is_applied_wherever_a_png_notes_it(save, note, before):
    path = save("a.png", RGB)
    content = path.read_bytes()
    place = content.rindex(before) - 4
    path.write_bytes(content[:place] + png_chunk(*NOTES[note]) + content[place:])
    found = read_images([path]).images[0]
    np.testing.assert_array_equal(found, np.rot90(RGB, -1).transpose(2, 0, 1))
    assert common_kind([path], None) == (3, 8, 6)


def test_a_transparent_value_of_16_bits_is_laid_over_white(save):
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    path = save("a.png", values)
    content = path.read_bytes()
    place = content.index(b"IDAT") - 4
    clear = png_chunk(b"tRNS", struct.pack(">H", values[2, 3]))
    path.write_bytes(content[:place] + clear + content[place:])
    expected = values >> 8
    expected[2, 3] = 255
    np.testing.assert_array_equal(read_images([path]).images[0, 0], expected)


def test_a_transparent_palette_colour_is_laid_over_white(save):
    picture = Image.fromarray(RGB).quantize(4)
    indices = np.asarray(picture)
    found = read_images([save("a.png", picture, transparency=2)]).images[0]
    assert (found[:, indices == 2] == 255).all()


def test_sixteen_bits_keep_the_upper_eight(save):
    deep = GREY.astype(np.uint16) * 256 + 77
    found = read_images([save("a.png", deep)]).images
    np.testing.assert_array_equal(found[0, 0], GREY)


def test_black_and_white_images_are_grey(save):
    found = read_images([save("a.png", GREY > 100)]).images
    np.testing.assert_array_equal(found[0, 0], np.where(GREY > 100, 255, 0))


def test_a_camera_s_rotation_is_applied(save):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = save("a.png", RGB, exif=exif)
    found = read_images([turned]).images[0]
    np.testing.assert_array_equal(found, np.rot90(RGB, -1).transpose(2, 0, 1))


def test_mixed_sizes_name_two_files_and_the_way_out(save):
    small, large = save("small.png", RGB), save("large.png", RGB.repeat(2, axis=0))
    with pytest.raises(DataError) as caught:
        read_images([small, small, large])
    message = str(caught.value)
    assert f"{small} is 8x6, {large} 8x12" in message
    assert "--image-size 6 (image_size=6)" in message
    assert read_images([small, large], image_size=6).images.shape == (2, 3, 6, 6)


def test_resizing_covers_the_square_and_cuts_the_centre(save):
    halves = np.zeros((4, 12), np.uint8)
    halves[:, :4], halves[:, 4:8], halves[:, 8:] = 10, 100, 200
    found = read_images([save("a.png", halves)], image_size=2).images[0, 0]
    whole = Image.fromarray(halves).resize((6, 2), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, np.asarray(whole)[:, 2:4])
    oblong = read_images([save("a.png", halves)], image_size=(4, 12)).images[0, 0]
    np.testing.assert_array_equal(oblong, halves)


def test_large_jpegs_are_reduced_before_decoding_to_nearly_the_same(save):
    y, x = np.mgrid[:512, :768]
    smooth = np.stack([y / 2, x / 3, (x + y) / 5], axis=-1).astype(np.uint8)
    found = read_images([save("a.jpg", smooth)], image_size=32).images[0]
    centre = Image.fromarray(smooth[:, 128:640]).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.abs(found.astype(int) - np.asarray(centre).transpose(2, 0, 1)).max() < 6


@pytest.mark.parametrize("size", [0, -3])
def test_an_impossible_size_is_a_wrong_setting(save, size):
    with pytest.raises(SettingError, match="give a whole number, 1 or more"):
        read_images([save("a.png", RGB)], image_size=size)


def truncated_jpeg(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def not_an_image(path):
    path.write_text("hello")


def empty(path):
    path.write_bytes(b"")


def missing(path):
    path.unlink()


@pytest.mark.parametrize("damage", [truncated_jpeg, not_an_image, empty, missing])
def test_a_bad_file_is_named_and_skipped_only_when_asked(save, damage):
    files = [save(f"{i}.jpg", RGB.repeat(20, axis=0).repeat(20, axis=1)) for i in range(4)]
    damage(files[2])
    with pytest.raises(DataError, match=r"2\.jpg: .*--skip-bad \(skip_bad=True\)"):
        read_images(files)
    found = read_images(files, skip_bad=True)
    assert found.skipped == (str(files[2]),)
    np.testing.assert_array_equal(found.kept, [0, 1, 3])
    np.testing.assert_array_equal(found.images[2], read_images([files[3]]).images[0])


def test_when_nothing_can_be_read_that_is_an_error(save):
    path = save("a.png", RGB)
    empty(path)
    for image_size in (None, 8):
        with pytest.raises(DataError, match="none of 2 images can be read"):
            read_images([path, path], skip_bad=True, image_size=image_size)
    truncated = save("b.jpg", RGB.repeat(20, axis=0))
    truncated_jpeg(truncated)
    with pytest.raises(DataError, match="none of 1 images can be read"):
        read_images([truncated], skip_bad=True)
    with pytest.raises(DataError, match="give at least one"):
        read_images([])


@pytest.mark.parametrize("side", [10_001, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    bomb = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    bomb.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
    )
    with pytest.raises(DataError, match=r"bomb\.png: cannot be read as an image .*pixels"):
        read_images([bomb])


def test_images_that_do_not_fit_in_memory_are_refused_before_decoding(save, monkeypatch):
    monkeypatch.setattr(limits, "machine_memory", lambda: 1000)
    monkeypatch.setattr(decode_module, "_decode", None)
    with pytest.raises(DataError, match=r"more than this machine's memory.*--image-size"):
        read_images([save("a.png", RGB)] * 7)


def test_a_format_that_is_not_offered_is_not_tried(save, tmp_path):
    disguised = save("a.tiff", RGB).rename(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image"):
        read_images([disguised])
