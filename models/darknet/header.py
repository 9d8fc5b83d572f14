"""The contents of a weights file: a header, then numbers (docs/networks.md, Weights files)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.config import ConfigError
from utils.files import open_regular


@dataclass(frozen=True)
class WeightsHeader:
    """The header before the numbers.

    Args:
        seen: images that the weights were trained on.
        wide: `seen` takes 8 bytes, as in every file since version 0.2, otherwise 4.
    """

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0
    wide: bool = True

    @property
    def size(self) -> int:
        """Bytes."""
        return 20 if self.wide else 16

    def pack(self) -> bytes:
        """The bytes of the header."""
        return struct.pack("<iii" + ("Q" if self.wide else "I"), self.major, self.minor, self.revision, self.seen)

    @classmethod
    def unpack(cls, data: bytes, *, wide: bool | None = None) -> WeightsHeader:
        """The header at the start of `data`, 20 bytes; `wide` None goes by the version."""
        major, minor, revision = struct.unpack("<iii", data[:12])
        if wide is None:
            wide = major * 10 + minor >= 2
        (seen,) = struct.unpack("<Q", data[12:20]) if wide else struct.unpack("<I", data[12:16])
        return cls(major, minor, revision, seen, wide)


def read_header(path: Path, *, wide: bool | None = None) -> WeightsHeader:
    """The header of a file; `wide` None goes by its version.

    Raises:
        ConfigError: no such file, or no darknet file.
    """
    try:
        with open_regular(path) as file:
            data = file.read(20)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(data) < 20:
        raise ConfigError(
            f"{path}: expected a darknet weights file, found {len(data)} bytes; it was cut off or is empty"
        )
    header = WeightsHeader.unpack(data, wide=wide)
    if not 0 <= header.major <= 1000 or not 0 <= header.minor <= 1000:
        raise ConfigError(
            f"{path}: expected a darknet weights file, found version {header.major}.{header.minor} at its start; "
            "is it a file of another program?"
        )
    return header


def read_numbers(path: Path) -> list[tuple[WeightsHeader, np.ndarray]]:
    """Header and numbers (float32), with the header that the version promises; then with the other length.

    Raises:
        ConfigError: no such file, no darknet file, or one that was cut off within a number.
    """
    promised = read_header(path)
    size = path.stat().st_size
    if (size - promised.size) % 4:
        raise ConfigError(
            f"{path}: expected a header of {promised.size} bytes and numbers of 4 bytes, found {size:,} bytes; the "
            "file was cut off or changed"
        )
    readings = []
    for header in (promised, read_header(path, wide=not promised.wide)):
        count = (size - header.size) // 4
        numbers = np.memmap(path, "<f4", "r", offset=header.size, shape=(count,)) if count else np.empty(0, "<f4")
        readings.append((header, numbers))
    return readings
