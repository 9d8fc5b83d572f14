"""Video in and out: frame counts, rates and times survive; what browsers need; rotation; clear refusals."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data.media import video
from data.media.video import VideoReader, exact_fps
from data.media.video_writer import VideoWriter


def write(path: Path, fps: Fraction, times: list[float], *, size: tuple[int, int] = (48, 64), **options: bool) -> None:
    writer = VideoWriter(path, fps, *size, **options)
    for number, moment in enumerate(times):
        writer.write(np.full((*size, 3), 10 + 5 * (number % 40), np.uint8), moment)
    writer.close()


def read(path: Path) -> list[tuple[np.ndarray, float]]:
    reader = VideoReader(str(path))
    frames = []
    while (item := reader.read()) is not None:
        frames.append(item)
    reader.close()
    return frames


@pytest.mark.parametrize("rate", ["25/2", "25", "30000/1001", "24000/1001", "2997/100", "1/2", "240"])
def test_frames_and_rate_come_back_exactly(tmp_path: Path, rate: str) -> None:
    fps = Fraction(rate)
    write(tmp_path / "a.mp4", fps, [round(float(i / fps), 3) for i in range(12)])  # MKV knows milliseconds only
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == fps
        assert stream.frames == 12
        assert [frame.pts * frame.time_base for frame in container.decode(stream)] == [i / fps for i in range(12)]
    reader = VideoReader(str(tmp_path / "a.mp4"))
    assert (reader.fps, reader.frames) == (fps, 12)
    reader.close()
    frames = read(tmp_path / "a.mp4")
    assert len(frames) == 12
    assert frames[3][0].mean() == pytest.approx(25, abs=2)
    assert [moment for _, moment in frames] == pytest.approx([float(i / fps) for i in range(12)], abs=2e-4)


def test_it_is_what_browsers_play(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", Fraction(25), [0, 0.04])
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("size", [(47, 63), (1, 1), (48, 63)])
def test_odd_sizes_grow_by_a_copy_of_the_edge(tmp_path: Path, size: tuple[int, int]) -> None:
    write(tmp_path / "a.mp4", Fraction(10), [0, 0.1, 0.2], size=size)
    frames = read(tmp_path / "a.mp4")
    assert len(frames) == 3
    assert frames[0][0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert np.ptp(frames[1][0].astype(int)) <= 4


def test_variable_rate_keeps_its_times(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.0913, 0.3, 0.3371, 1.0]
    write(tmp_path / "a.mp4", Fraction(25), [100 + moment for moment in times])
    assert [moment for _, moment in read(tmp_path / "a.mp4")] == pytest.approx(times, abs=2e-4)


def test_jittering_times_of_cameras_move_onto_the_grid(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", Fraction(10), [5.0, 5.03, 5.21, 5.58], on_grid=True)
    assert [moment for _, moment in read(tmp_path / "a.mp4")] == pytest.approx([0, 0.1, 0.2, 0.6], abs=2e-4)


def test_frames_of_another_size_are_scaled(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", Fraction(25), 48, 64)
    for number, size in enumerate([(48, 64), (96, 128), (10, 10)]):
        writer.write(np.full((*size, 3), 128, np.uint8), number / 25)
    writer.close()
    assert [image.shape for image, _ in read(tmp_path / "a.mp4")] == [(48, 64, 3)] * 3


def test_colours_survive(tmp_path: Path) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32] = (200, 30, 40)
    writer = VideoWriter(tmp_path / "a.mp4", Fraction(25), 48, 64)
    for number in range(3):
        writer.write(image, number / 25)
    writer.close()
    back = read(tmp_path / "a.mp4")[1][0].astype(int)
    assert np.abs(back[10, 10] - (200, 30, 40)).max() < 12
    assert back[10, 50].max() < 12


def test_rotation_in_the_file_is_honoured(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", Fraction(25), [0, 0.04])
    data = (tmp_path / "a.mp4").read_bytes()
    place = data.index(b"tkhd") + 44  # the display matrix of version 0: ISO/IEC 14496-12, 8.3.2
    turned = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30], ">i4").tobytes()
    (tmp_path / "b.mp4").write_bytes(data[:place] + turned + data[place + 36 :])
    assert read(tmp_path / "b.mp4")[0][0].shape == (64, 48, 3)


@pytest.mark.parametrize("encoder", ["libvpx-vp9"])
def test_without_the_first_encoder_the_next_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    monkeypatch.setattr(video.av, "codecs_available", {encoder})
    write(tmp_path / "a.mp4", Fraction(25), [0, 0.04, 0.08])
    assert len(read(tmp_path / "a.mp4")) == 3
    monkeypatch.setattr(video.av, "codecs_available", set())
    with pytest.raises(ValueError, match="pip install av"):
        VideoWriter(tmp_path / "b.mp4", Fraction(25), 48, 64)


def test_what_cannot_be_opened_or_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="cannot be opened as video"):
        VideoReader(str(tmp_path / "text.mp4"))
    with pytest.raises(ValueError, match="no such video file"):
        VideoReader(str(tmp_path / "absent.mp4"))
    with pytest.raises(ValueError, match="camera 99 cannot be opened"):
        VideoReader(99)
    with pytest.raises(OSError, match=r"a\.mp4: cannot be written"):
        write(tmp_path / "absent" / "a.mp4", Fraction(25), [0, 0.04])
    VideoWriter(tmp_path / "empty.mp4", Fraction(25), 48, 64).close()


@pytest.mark.parametrize(
    ("value", "fps"),
    [(12.5, "25/2"), (29.97002997, "30000/1001"), (23.976023976, "24000/1001"), (29.97, "2997/100"), (25, "25")],
)
def test_exact_rates(value: float, fps: str) -> None:
    assert exact_fps(value) == Fraction(fps)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 90000])
def test_incredible_rates(value: float) -> None:
    assert exact_fps(value) is None


def test_a_real_video(shared: Path) -> None:
    reader = VideoReader(str(shared / "data" / "video" / "car-detection.mp4"))
    assert (reader.fps, reader.frames) == (Fraction(25, 2), 377)
    image, moment = reader.read()
    assert (image.shape, moment) == ((432, 768, 3), 0.0)
    assert reader.read()[1] == pytest.approx(0.08)
    reader.close()
