"""Grid: the tiles of a picture cover it, overlap enough, and are as few as that takes."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.samples import Sample, Samples
from utils.tiles import Grid, Tile, Tiling


@given(st.integers(1, 700), st.integers(1, 700), st.integers(32, 300), st.integers(32, 300), st.floats(0, 0.9))
def test_tiles_cover_the_picture_and_overlap_enough(
    height: int, width: int, rows: int, columns: int, overlap: float
) -> None:
    tiles = Grid((rows, columns), overlap).tiles(height, width)
    assert {(tile.height, tile.width) for tile in tiles} == {(min(rows, height), min(columns, width))}
    assert {(tile.picture_height, tile.picture_width) for tile in tiles} == {(height, width)}
    for low, high, side, length in ((0, 2, columns, width), (1, 3, rows, height)):
        spans = sorted({(tile[low], tile[high]) for tile in tiles})
        assert (spans[0][0], spans[-1][1]) == (0, length)
        shared = [end - begin for (_, end), (begin, _) in itertools.pairwise(spans)]
        assert all(pixels >= overlap * side - 1e-6 or pixels == side - 1 for pixels in shared)
        longest = max(math.floor(side * (1 - overlap) + 1e-6), 1)  # from one tile to the next
        assert len(spans) == 1 or (len(spans) - 2) * longest < length - side, "one tile less would not cover it"
    covered = np.zeros((height, width), bool)
    for tile in tiles:
        tile.cut(covered)[:] = True
    assert covered.all()
    assert len(set(tiles)) == len(tiles)


def test_a_picture_that_a_tile_holds_is_one_tile() -> None:
    assert Grid((64, 64)).tiles(64, 50) == (Tile(0, 0, 50, 64, 64, 50),)
    assert Grid((64, 64)).tiles(64, 50)[0].inner_edges == (False, False, False, False)
    assert [tile[:4] for tile in Grid((100, 100), 0.2).tiles(90, 180)] == [(0, 0, 100, 90), (80, 0, 180, 90)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 31}, "size: expected at least 32 pixels, found 31"),
        ({"size": 64, "overlap": 0.95}, "overlap: expected a share from 0 to 0.9, found 0.95"),
        ({"size": 64, "empty": 1.5}, "empty: expected a share from 0 to 1, found 1.5"),
        ({"size": 64, "visible": 0.0}, "visible: expected a share above 0, up to 1, found 0.0"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Tiling(**values)  # type: ignore[arg-type]


def test_samples_keep_their_tiles(tmp_path) -> None:
    nothing = np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool)
    tiles = Grid((40, 40), 0.25).tiles(60, 100)
    samples = Samples.of(Sample(tmp_path / "a.png", 3, tile.height, tile.width, *nothing, tile) for tile in tiles)
    assert [sample.tile for sample in samples] == list(tiles)
    assert samples[1].file_size == (60, 100)
    assert [sample.tile for sample in samples[::2]] == list(tiles[::2])
    assert [sample.tile for sample in samples.take(np.array([3, 0]))] == [tiles[3], tiles[0]]
    with pytest.raises(ValueError, match="found both"):
        Samples.of([samples[0], Sample(tmp_path / "b.png", 4, 40, 40, *nothing)])
