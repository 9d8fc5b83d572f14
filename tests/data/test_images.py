"""The decoder: every kind of file a camera or a tool writes, and every way a file can be broken."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data.images import IMAGE_SUFFIXES, decode_image, image_size, read_for_training, read_image

HEIGHT, WIDTH = 20, 30
RGB = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
SMOOTH = np.stack(np.meshgrid(np.arange(64) * 4, np.arange(48) * 5, indexing="xy"), axis=-1).astype(np.uint8)
SMOOTH = np.dstack((SMOOTH, SMOOTH.mean(axis=2).astype(np.uint8)))
UPRIGHT = {
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.transpose(1, 0, 2),
    6: np.rot90(RGB, -1),
    7: RGB[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(RGB),
}


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP"])
def test_an_empty_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"nothing.{kind.lower()}"
    path.touch()
    for function in (read_image, image_size):
        with pytest.raises(ValueError, match=r"nothing\..*: the file is empty; copy"):
            function(path)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
)
def test_lossless_files_come_back_exactly(kind: str, options: dict) -> None:
    image = decode_image(encode(Image.fromarray(RGB), kind, **options))
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert np.array_equal(image, RGB)


def test_grey_and_one_bit_become_three_equal_channels() -> None:
    grey = RGB[..., 0]
    assert np.array_equal(decode_image(encode(Image.fromarray(grey), "PNG")), np.repeat(grey[..., None], 3, axis=2))
    bits = Image.fromarray(grey > 127)
    assert np.array_equal(decode_image(encode(bits, "PNG"))[..., 1], np.where(grey > 127, 255, 0))
    jpeg = decode_image(encode(Image.fromarray(grey), "JPEG"))
    assert jpeg.shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(jpeg[..., 0], jpeg[..., 2])


def test_alpha_is_dropped() -> None:
    alpha = RGB[..., :1]
    assert np.array_equal(decode_image(encode(Image.fromarray(np.dstack((RGB, alpha))), "PNG")), RGB)
    grey = decode_image(encode(Image.fromarray(np.dstack((RGB[..., 1:2], alpha))), "PNG"))
    assert np.array_equal(grey, np.repeat(RGB[..., 1:2], 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_and_without_transparency(kind: str) -> None:
    image = Image.fromarray(RGB).quantize(16)
    expected = np.array(image.convert("RGB"))
    assert np.array_equal(decode_image(encode(image, kind)), expected)
    assert np.array_equal(decode_image(encode(image, kind, transparency=3)), expected)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.fromarray(SMOOTH), Image.fromarray(255 - SMOOTH)]
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(decode_image(data), SMOOTH)


def test_cmyk_jpeg_of_adobe_is_not_a_negative() -> None:
    data = encode(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(decode_image(data).astype(int) - SMOOTH).mean() < 3


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_scaled_not_clipped(channels: int, suffix: str) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH, channels), dtype=np.uint16)
    good, data = cv2.imencode(suffix, deep if channels < 3 else deep[..., [2, 1, 0, 3][:channels]])
    assert good
    image = decode_image(data.tobytes())
    assert np.abs(image.astype(float) - deep[..., :3] / 257).max() < 1
    assert np.array_equal(image, np.broadcast_to(deep[..., :3] >> 8, image.shape))


def test_eight_bits_stored_as_sixteen_come_back_exactly() -> None:
    data = encode(Image.fromarray(RGB[..., 0].astype(np.uint16) * 257), "PNG")
    assert np.array_equal(decode_image(data)[..., 0], RGB[..., 0])


def test_pixels_without_a_range_are_refused() -> None:
    data = encode(Image.fromarray(RGB[..., 0].astype(np.float32)), "TIFF")
    with pytest.raises(ValueError, match=r"heat.tif: .*no agreed range.*8 or 16 bits"):
        decode_image(data, name="heat.tif")


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".lzw.tif", ".webp", ".jpg"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    options = {".lzw.tif": {"compression": "tiff_lzw"}, ".webp": {"lossless": True}}.get(suffix, {})
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    Image.fromarray(RGB).save(path, exif=exif, **options)
    image = read_image(path)
    assert image.shape == UPRIGHT[orientation].shape
    assert image_size(path) == image.shape[:2]
    if suffix != ".jpg":
        assert np.array_equal(image, UPRIGHT[orientation])


def test_exif_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    data = encode(Image.fromarray(RGB), "PNG")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    path = tmp_path / "late.png"
    path.write_bytes(data[:-12] + chunk + data[-12:])
    assert np.array_equal(read_image(path), UPRIGHT[6])
    assert image_size(path) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_file_is_no_half_grey_image(kind: str, share: float) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(ValueError, match=r"^half\.x: .*(put a whole file|save|copy)"):
        decode_image(data[: int(len(data) * share)], name="half.x")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_raises_value_error_or_decodes() -> None:
    rng = np.random.default_rng(3)
    for kind in ("JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP"):
        data = np.frombuffer(encode(Image.fromarray(SMOOTH), kind), np.uint8)
        for _ in range(30):
            damaged = data.copy()
            damaged[rng.integers(0, min(len(data), 400), 8)] = rng.integers(0, 256, 8)
            try:
                image = decode_image(damaged.tobytes())
            except ValueError:
                continue
            assert image.ndim == 3
            assert image.shape[2] == 3


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"class x y w h\n0 0.5 0.5 1 1\n", "not an image that Pillow knows"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    for function in (read_image, image_size):
        with pytest.raises(ValueError, match=said) as caught:
            function(path)
        assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for function in (read_image, image_size):
        with pytest.raises(ValueError, match="no such image file"):
            function(tmp_path / "none.jpg")
        with pytest.raises(ValueError, match="a folder, expected an image"):
            function(tmp_path)


def test_decompression_bomb() -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(ValueError, match=r"bomb.png: the header claims more pixels"):
        decode_image(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT", name="bomb.png")


def test_photos_are_the_same_as_with_opencv(shared: Path) -> None:
    photos = sorted((shared / "data" / "images").glob("*.jpg"))
    assert photos
    for path in photos:
        expected = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        image = read_image(path)
        assert np.abs(image.astype(int) - expected).max() <= 1  # the two bring libjpeg builds of their own
        assert image_size(path) == image.shape[:2]
        assert path.suffix in IMAGE_SUFFIXES


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (2, 2)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 40}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_reading_for_training_gives_the_same_pixels(
    tmp_path: Path, size: tuple[int, int], options: dict, mode: str
) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(SMOOTH).resize(size[::-1]).convert(mode).save(path, **options)
    assert np.array_equal(read_for_training(path), read_image(path))


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_photos_that_lie_on_their_side_are_read_upright_for_training(tmp_path: Path, orientation: int) -> None:
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(SMOOTH).resize((60, 40)).save(path, exif=exif)
    assert np.array_equal(read_for_training(path), read_image(path))


def test_other_files_and_cut_ones_are_read_as_ever_for_training(tmp_path: Path) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.png")
    assert np.array_equal(read_for_training(tmp_path / "a.png"), SMOOTH)
    data = encode(Image.fromarray(SMOOTH).resize((640, 480)), "JPEG")
    (tmp_path / "a.jpg").write_bytes(data[:-3])
    assert np.array_equal(read_for_training(tmp_path / "a.jpg"), read_image(tmp_path / "a.jpg"))
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"a\.jpg: cannot be decoded"):
        read_for_training(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"none\.jpg: no such image file"):
        read_for_training(tmp_path / "none.jpg")
