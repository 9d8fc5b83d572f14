"""A baseline JPEG encoder in whole numbers: the same pixels give the same bytes with every library and machine."""

from __future__ import annotations

import functools
import math

import numpy as np

QUALITY = 90
"""Scale of the quantisation tables, as libjpeg counts it."""

# ITU-T T.81, tables K.1 and K.2: quantisation steps at quality 50, row by row.
_STEPS_LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
_STEPS_CHROMA = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99, *(99,) * 32),
)
# ITU-T T.81, tables K.3 and K.5: how many codes of 1..16 bits, and their symbols. All three components use this pair.
_DC_COUNTS, _DC_SYMBOLS = bytes.fromhex("00010501010101010100000000000000"), bytes(range(12))
_AC_COUNTS = bytes.fromhex("0002010303020403050504040000017d")
_AC_SYMBOLS = bytes.fromhex(
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a"
    "434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9"
    "aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
)
_BITS = 12
"""Fraction bits of the cosine table."""


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """An ordinary JFIF file: baseline, YCbCr without chroma subsampling, quality `QUALITY`.

    Args:
        pixels: (H, W, 3) uint8 RGB, H and W from 1 to 65535.
    """
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    planes = _to_ycbcr(padded)
    coefficients = np.stack([_quantise(plane, steps) for plane, steps in zip(planes, _tables(), strict=True)], axis=1)
    return _header(height, width) + _entropy_code(coefficients) + b"\xff\xd9"


def _to_ycbcr(pixels: np.ndarray) -> list[np.ndarray]:
    """Y, Cb and Cr less 128, (H, W) int32; the JFIF matrix in 16-bit fixed point."""
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    half = 1 << 15
    luma = (19595 * red + 38470 * green + 7471 * blue + half) >> 16
    cb = (-11059 * red - 21709 * green + 32768 * blue + half - 1) >> 16
    cr = (32768 * red - 27439 * green - 5329 * blue + half - 1) >> 16
    return [luma - 128, cb, cr]


@functools.cache
def _cosines() -> np.ndarray:
    """(8, 8) int32 orthonormal DCT-II matrix times 2**_BITS.

    A libm errs by 1e-16, and no entry is that close to a half: rounding gives the same numbers everywhere.
    """
    scales = [math.sqrt(0.125), *[0.5] * 7]
    rows = [[scale * math.cos((2 * n + 1) * k * math.pi / 16) for n in range(8)] for k, scale in enumerate(scales)]
    return np.array([[round(value * (1 << _BITS)) for value in row] for row in rows], dtype=np.int32)


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(64,) int32 quantisation steps of Y, Cb, Cr, row by row."""
    scale = 5000 // QUALITY if QUALITY < 50 else 200 - 2 * QUALITY
    luma, chroma = (
        np.array([min(max((step * scale + 50) // 100, 1), 255) for step in steps], dtype=np.int32)
        for steps in (_STEPS_LUMA, _STEPS_CHROMA)
    )
    return luma, chroma, chroma


@functools.cache
def _zigzag() -> np.ndarray:
    """(64,) int64: the index in the block, row by row, of each entry of the zigzag."""
    cells = sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
    return np.array(cells, dtype=np.int64)


def _quantise(plane: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """(blocks, 64) int32 quantised DCT coefficients in zigzag order."""
    height, width = plane.shape
    # Whole numbers in float64, which BLAS multiplies fast: below 2**53 they are exact in any order of sums.
    cosines = _cosines().astype(np.float64)
    lines = plane.reshape(height // 8, 8, width).transpose(1, 0, 2).reshape(8, -1).astype(np.float64)
    # Of the fraction two bits stay between the two passes.
    columns = np.floor((cosines @ lines + (1 << (_BITS - 3))) / (1 << (_BITS - 2)))
    levels = (columns.reshape(-1, 8) @ cosines.T).reshape(8, -1, 8).transpose(1, 0, 2).reshape(-1, 64)
    divisors = (steps << (_BITS + 2)).astype(np.float64)
    quotients = np.floor((np.abs(levels) + np.floor(divisors / 2)) / divisors)
    return np.copysign(quotients, levels).astype(np.int32)[:, _zigzag()]


@functools.cache
def _codes(counts: bytes, symbols: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Huffman code and its length for every symbol, (256,) int64 each; T.81, annex C."""
    code, values, lengths = 0, np.zeros(256, dtype=np.int64), np.zeros(256, dtype=np.int64)
    remaining = iter(symbols)
    for length, count in enumerate(counts, start=1):
        for _ in range(count):
            symbol = next(remaining)
            values[symbol], lengths[symbol] = code, length
            code += 1
        code <<= 1
    return values, lengths


def _with_extra_bits(symbols: np.ndarray, values: np.ndarray, sizes: np.ndarray, table: tuple) -> tuple:
    """Code words with the bits of `values` behind them: (words, lengths), int64."""
    words, lengths = table[0][symbols], table[1][symbols]
    extra = np.where(values < 0, values + (np.int64(1) << sizes) - 1, values)
    return (words << sizes) | extra, lengths + sizes


def _bit_sizes(values: np.ndarray) -> np.ndarray:
    """Bits of |value|, int64: 0 for 0, 1 for 1, 2 for 2 and 3, ..."""
    return np.searchsorted(np.int64(1) << np.arange(13, dtype=np.int64), np.abs(values), side="right").astype(np.int64)


def _entropy_code(coefficients: np.ndarray) -> bytes:
    """Huffman-coded bytes of (blocks, components, 64) zigzag coefficients.

    Every block becomes a row of 65 code words of 0 to 60 bits: DC, 63 AC (with the runs of 16 zeros before it), end.
    """
    coefficients = coefficients.astype(np.int64)
    dc = np.diff(coefficients[:, :, 0], axis=0, prepend=np.int64(0)).reshape(-1)
    blocks = coefficients.reshape(-1, 64)
    words = np.zeros((len(blocks), 65), dtype=np.int64)
    lengths = np.zeros((len(blocks), 65), dtype=np.int64)

    sizes = _bit_sizes(dc)
    words[:, 0], lengths[:, 0] = _with_extra_bits(sizes, dc, sizes, _codes(_DC_COUNTS, _DC_SYMBOLS))

    table = _codes(_AC_COUNTS, _AC_SYMBOLS)
    row, index = np.nonzero(blocks[:, 1:])
    index = index + 1
    before = np.concatenate([np.zeros(1, dtype=np.int64), index[:-1]])
    before[np.diff(row, prepend=-1) != 0] = 0  # the first of its block counts from DC
    runs = index - before - 1
    values = blocks[row, index]
    sizes = _bit_sizes(values)
    word, length = _with_extra_bits((runs % 16) * 16 + sizes, values, sizes, table)
    long_run, long_length = int(table[0][0xF0]), int(table[1][0xF0])
    prefixes = np.array([sum(long_run << (i * long_length) for i in range(n)) for n in range(4)], dtype=np.int64)
    words[row, index] = (prefixes[runs // 16] << length) | word
    lengths[row, index] = (runs // 16) * long_length + length

    last = np.zeros(len(blocks), dtype=np.int64)
    np.maximum.at(last, row, index)
    words[:, 64], lengths[:, 64] = table[0][0], np.where(last < 63, table[1][0], 0)
    return _pack(words.reshape(-1), lengths.reshape(-1))


def _pack(words: np.ndarray, lengths: np.ndarray) -> bytes:
    """Bits of the words one after another, filled up with ones, a zero byte after each 0xFF."""
    used = lengths > 0
    words, lengths = words[used].astype(np.uint64), lengths[used]
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1])
    padding = -total % 8
    words, lengths = np.append(words, np.uint64((1 << padding) - 1)), np.append(lengths, padding)
    starts = np.append(np.int64(0), ends)
    # A word lies in the lane of 64 bits that it begins in, and what is too long for it in the next one.
    lane, free = starts >> 6, 64 - (starts & 63) - lengths
    lanes = np.zeros(int(lane[-1]) + 2, dtype=np.uint64)
    first, last = words << free.clip(0).astype(np.uint64), words >> (-free).clip(0).astype(np.uint64)
    np.bitwise_or.at(lanes, lane, np.where(free >= 0, first, last))
    over = free < 0
    np.bitwise_or.at(lanes, lane[over] + 1, words[over] << (64 + free[over]).astype(np.uint64))
    return lanes.astype(">u8").tobytes()[: (total + padding) // 8].replace(b"\xff", b"\xff\x00")


def _header(height: int, width: int) -> bytes:
    """Everything before the entropy-coded bytes."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body

    tables = [bytes(table[_zigzag()].astype(np.uint8)) for table in _tables()[:2]]
    components = b"".join(bytes([number, 0x11, 0 if number == 1 else 1]) for number in (1, 2, 3))
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
            *(segment(0xDB, bytes([number]) + table) for number, table in enumerate(tables)),
            segment(0xC0, b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\x03" + components),
            segment(0xC4, b"\x00" + _DC_COUNTS + _DC_SYMBOLS),
            segment(0xC4, b"\x10" + _AC_COUNTS + _AC_SYMBOLS),
            segment(0xDA, b"\x03\x01\x00\x02\x00\x03\x00" + b"\x00\x3f\x00"),
        ]
    )
