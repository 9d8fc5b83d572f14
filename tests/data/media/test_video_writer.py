"""data/media/video_writer.py: the colours that are handed to the encoder; test_video.py has the files."""

from __future__ import annotations

import av
import cv2
import numpy as np

from data.media.video_writer import _planes


def test_planes_are_those_of_ffmpeg_for_smooth_colours() -> None:
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
    own = _planes(image)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p", interpolation="AREA")
    wanted = frame.to_ndarray()
    assert own.shape == wanted.shape == (144, 128)
    assert np.abs(own.astype(int) - wanted).max() <= 3
    assert abs(float(own.mean()) - float(wanted.mean())) < 0.7


def test_a_thin_line_keeps_half_of_its_colour_wherever_it_lies() -> None:
    chroma = []
    for column in (6, 7):
        image = np.full((16, 16, 3), 90, np.uint8)
        image[:, column] = (230, 30, 30)
        chroma.append(_planes(image)[16:].reshape(2, 8, 8)[1, 0, 3])
    assert chroma[0] == chroma[1] > 150


def test_grey_has_no_colour_and_white_is_not_clipped() -> None:
    for value, luma in ((0, 16), (128, 126), (255, 235)):
        planes = _planes(np.full((4, 8, 3), value, np.uint8))
        assert np.abs(planes[:4].astype(int) - luma).max() <= 1
        assert (planes[4:] == 128).all()
