"""utils/thumbnails.py: what is written is read, the file is bounded, and all runs take the same pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from utils import thumbnails
from utils.config import ConfigError
from utils.thumbnails import MOST_BYTES, Thumbnail, chosen_ids, read_thumbnails, thumbnail, write_thumbnails


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / thumbnails.FILE
    assert read_thumbnails(path) == {}
    image = np.full((100, 400, 3), 90, np.uint8)
    write_thumbnails(path, [(7, thumbnail(image, "ä <b>.jpg")), (9, thumbnail(image[:10, :10], "b.jpg"))])
    found = read_thumbnails(path)
    assert {number: (each.name, each.height, each.width) for number, each in found.items()} == {
        7: ("ä <b>.jpg", 100, 400),
        9: ("b.jpg", 10, 10),
    }
    assert found[7].jpeg[:2] == b"\xff\xd8"
    assert [file.name for file in tmp_path.iterdir()] == [thumbnails.FILE]


def test_the_file_is_bounded(tmp_path: Path) -> None:
    big = Thumbnail("x.jpg", 1, 1, bytes(MOST_BYTES // 10))
    write_thumbnails(tmp_path / "t.zip", ((number, big) for number in range(100)))
    assert (tmp_path / "t.zip").stat().st_size < 1.05 * MOST_BYTES
    assert len(read_thumbnails(tmp_path / "t.zip")) == 9


def test_all_runs_choose_the_same_whatever_the_order() -> None:
    ids = list(range(5000))
    assert chosen_ids(ids) == chosen_ids(ids[::-1])
    assert len(chosen_ids(ids)) == thumbnails.MOST_PICTURES
    assert chosen_ids([3, 1]) == {1, 3}


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + bytes(18)])
def test_a_damaged_file_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.zip").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_thumbnails(tmp_path / "t.zip")
