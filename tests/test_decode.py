"""One picture of any kind as bytes (C, H, W): upright, opaque, of 8 bits; what is none says why."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddattr.data.decode import Frame, header, picture

SIZE = {"height": 6, "width": 10}
DRAW = np.random.default_rng(0)
GREY, RGB = DRAW.integers(0, 256, (6, 10), np.uint8), DRAW.integers(0, 256, (6, 10, 3), np.uint8)
STORED = {  # how EXIF says that an upright picture may lie in its file
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def claimed(width: int, height: int) -> bytes:
    """A small PNG whose header says that it is of this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0" * 99)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_picture_is_upright_before_it_is_measured_or_resized(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(np.ascontiguousarray(STORED[orientation](RGB))), kind, exif=exif)
    assert np.array_equal(picture(content, Frame(**SIZE, channels=3)), RGB.transpose(2, 0, 1))
    assert header(content)[:2] == (10, 6)
    upright = picture(encoded(Image.fromarray(RGB)), Frame(4, 4, 3))
    assert np.array_equal(picture(content, Frame(4, 4, 3)), upright)


def test_an_orientation_that_does_not_exist_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 9
    content = encoded(Image.fromarray(RGB), exif=exif)
    assert header(content)[:2] == (10, 6)
    assert np.array_equal(picture(content, Frame(**SIZE, channels=3)), RGB.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_keeps_its_histogram(kind):
    """Byte v is v * 257 in 16 bits, and values between go to the nearest."""
    exact = encoded(Image.fromarray(GREY.astype(np.uint16) * 257), kind)
    assert header(exact).grey
    assert np.array_equal(picture(exact, Frame(**SIZE, channels=1))[0], GREY)
    values = DRAW.integers(0, 65536, (6, 10), np.uint16)
    found = picture(encoded(Image.fromarray(values), kind), Frame(**SIZE, channels=1))[0]
    assert np.array_equal(found, np.round(values / 257))


def test_more_than_16_bits_are_refused():
    content = encoded(Image.fromarray(np.full((6, 10), 70_000, np.int32)), "TIFF")
    with pytest.raises(ValueError, match="mode I, expected 8 or 16 bits"):
        picture(content, Frame(**SIZE, channels=1))


def transparent_palette() -> Image.Image:
    """Red, but for a corner of nothing."""
    image = Image.new("P", (10, 6), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.putpixel((0, 0), 0)
    return image


@pytest.mark.parametrize("background", [255, 0, 77])
def test_what_is_transparent_shows_the_background(background):
    """A palette, RGBA and grey with alpha: opaque parts stay, none of the colour behind nothing comes through."""
    frame = Frame(**SIZE, channels=3, background=background)
    palette = picture(encoded(transparent_palette(), transparency=0), frame)
    assert palette[:, 0, 0].tolist() == [background] * 3
    assert palette[:, 0, 1].tolist() == [255, 0, 0]
    alpha = np.zeros((6, 10), np.uint8)
    alpha[:, 5:] = 255
    rgba = picture(encoded(Image.fromarray(np.dstack([RGB, alpha]))), frame)
    assert (rgba[:, :, :5] == background).all()
    assert np.array_equal(rgba[:, :, 5:], RGB[:, 5:].transpose(2, 0, 1))
    both = picture(encoded(Image.fromarray(np.dstack([GREY, alpha]))), frame._replace(channels=1))
    assert (both[0, :, :5] == background).all()
    assert np.array_equal(both[0, :, 5:], GREY[:, 5:])
    half = encoded(Image.new("RGBA", (10, 6), (255, 0, 0, 128)))
    assert abs(int(picture(half, frame)[1, 0, 0]) - background * 127 / 255) <= 1


MODES = {
    "1": lambda: encoded(Image.new("1", (10, 6))),
    "L": lambda: encoded(Image.fromarray(GREY)),
    "LA": lambda: encoded(Image.new("LA", (10, 6))),
    "I;16": lambda: encoded(Image.fromarray(GREY.astype(np.uint16))),
    "P": lambda: encoded(transparent_palette()),
    "RGB": lambda: encoded(Image.fromarray(RGB)),
    "RGBA": lambda: encoded(Image.new("RGBA", (10, 6))),
    "CMYK": lambda: encoded(Image.new("CMYK", (10, 6)), "JPEG"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_any_mode_has_the_frame_s_channels(mode, channels):
    made = picture(MODES[mode](), Frame(4, 4, channels))
    assert (made.shape, made.dtype) == ((channels, 4, 4), np.uint8)
    assert header(MODES[mode]()).grey == (mode in ("1", "L", "LA", "I;16"))
    assert header(MODES[mode]()).transparent == mode.endswith("A")


def test_cmyk_is_ink():
    made = picture(encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG"), Frame(16, 16, 3))
    assert made[0].max() < 8
    assert made[1:].min() > 247


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (10, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert header(content).frames == 3
    made = picture(content, Frame(**SIZE, channels=3))
    assert (made == np.array([255, 0, 0]).reshape(3, 1, 1)).all()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"<svg/>", "it is no picture, or damaged"),
        (encoded(Image.fromarray(RGB))[:-60], "it is damaged: "),
        (encoded(Image.fromarray(RGB))[:20], "it is damaged: Truncated"),
        (claimed(30_000, 30_000), "it is too large: .*900000000 pixels"),
        (claimed(10_000, 10_000), r"it has 10000 x 10000 pixels, expected at most 89,478,485"),
    ],
)
def test_what_is_no_picture_says_why(content, why, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    for given in (content, tmp_path / "x.png"):
        with pytest.raises(ValueError, match=f"^{why}"):
            picture(given, Frame(**SIZE, channels=3))


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    for path, why in ((tmp_path / "x.png", "it is no file"), (tmp_path / "none.png", "no such file or directory")):
        with pytest.raises(ValueError, match=f"^{why}$"):
            header(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_damaged_file_is_a_picture_or_a_refusal_in_one_line(kind):
    """Cut anywhere, or with any byte changed: nothing else is ever raised."""
    draw = np.random.default_rng(1)
    whole = encoded(Image.fromarray(RGB), kind)
    damaged = [whole[:length] for length in draw.integers(0, len(whole), 40)]
    for place in draw.integers(0, len(whole), 200):
        damaged.append(whole[:place] + bytes([draw.integers(256)]) + whole[place + 1 :])
    refusals = []
    for content in damaged:
        try:
            header(content)
            assert picture(content, Frame(4, 4, 3)).shape == (3, 4, 4)
        except ValueError as error:
            refusals.append(str(error))
    assert refusals
    assert not any("\n" in said for said in refusals)


def test_the_middle_is_taken_or_the_whole_stretched():
    """Against Pillow, by hand."""
    wide = Image.fromarray(DRAW.integers(0, 256, (8, 24, 3), np.uint8))
    middle = wide.resize((4, 4), Image.Resampling.BICUBIC, box=(8, 0, 16, 8))
    whole = wide.resize((4, 4), Image.Resampling.BICUBIC)
    for fit, expected in (("crop", middle), ("stretch", whole)):
        made = picture(encoded(wide), Frame(4, 4, 3, fit=fit))
        assert np.array_equal(made, np.asarray(expected).transpose(2, 0, 1))
    tall = encoded(wide.transpose(Image.Transpose.TRANSPOSE))
    assert np.array_equal(picture(tall, Frame(8, 8, 3)), np.asarray(wide)[:, 8:16].transpose(2, 1, 0))


def test_a_file_is_what_is_in_it(tmp_path: Path):
    (tmp_path / "a b.png").write_bytes(encoded(Image.fromarray(RGB)))
    frame = Frame(**SIZE, channels=3)
    assert np.array_equal(picture(tmp_path / "a b.png", frame), picture(encoded(Image.fromarray(RGB)), frame))
