"""Videos as they are found: damaged stretches, variable rates, other shapes of pixels, killed writers, odd names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data.media.sources import open_source
from data.media.video import VideoReader
from data.media.video_writer import VideoWriter
from tests.data.media.test_video import read, write


def noise(path: Path, times: Sequence[float], fps: Fraction = Fraction(25)) -> Path:
    """A video whose frames are large enough that half a file holds some of them."""
    rng = np.random.default_rng(0)
    writer = VideoWriter(path, fps, 64, 64)
    for moment in times:
        writer.write(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), moment)
    writer.close()
    return path


def damage(path: Path, numbers: Sequence[int]) -> None:
    """Overwrite these packets of a video, in the order of the file."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in numbers:
        start, size = places[number]
        data[start : start + size] = b"\xff" * size
    path.write_bytes(data)


def test_a_damaged_stretch_is_passed_over_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = noise(tmp_path / "a.mp4", [i / 25 for i in range(40)])
    damage(path, [17])
    frames = list(open_source(str(path)))
    assert len(frames) == 39
    places = [frame.index for frame in frames]
    (lost,) = set(range(40)) - set(places)
    assert places == [number for number in range(40) if number != lost]
    assert [frame.time for frame in frames] == pytest.approx([number / 25 for number in places], abs=1e-3)
    assert abs(lost / 25 - 0.68) < 0.2
    assert re.search(r"a\.mp4: damaged: 1 frame near 0\.[67] s cannot be decoded", caplog.text)
    assert "cut off" not in caplog.text


def test_a_long_damaged_stretch_of_a_real_video(shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cars.mp4"
    path.write_bytes((shared / "data" / "video" / "car-detection.mp4").read_bytes())
    damage(path, range(113, 188))
    frames = list(open_source(str(path)))
    assert len(frames) > 250
    assert frames[-1].index == 376
    assert all(frame.index == round(frame.time * 12.5) for frame in frames)
    assert f"damaged: {377 - len(frames)} frames" in caplog.text


def test_damage_at_the_start_and_the_end(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.mp4", [i / 25 for i in range(40)])
    damage(path, [38, 39])
    assert [frame.index for frame in open_source(str(path))][:30] == list(range(30))
    damage(path, range(40))
    source = open_source(str(path))
    assert list(source) == []
    assert "no frame can be decoded" in source.skipped[0]


@pytest.mark.parametrize("lost", [[39], [38, 39], [36, 37, 38, 39]])
def test_damage_at_the_very_end_is_told(tmp_path: Path, lost: list[int], caplog: pytest.LogCaptureFixture) -> None:
    path = noise(tmp_path / "a.mp4", [i / 25 for i in range(40)])
    damage(path, lost)
    av.logging.set_level(av.logging.ERROR)  # as an import of torchvision 0.21 does
    assert len(list(open_source(str(path)))) == 40 - len(lost)
    said = f"a.mp4: ends after {40 - len(lost)} frames, its header promises 40; the file is cut off or damaged"
    assert [message.rpartition("/")[2] for message in caplog.messages] == [said]


@pytest.mark.parametrize("cut", [1, 3000])
def test_a_file_that_lacks_its_last_bytes_is_told(tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    path = noise(tmp_path / os.fsdecode(b"caf\xe9.mp4" if os.name != "nt" else b"a.mp4"), [i / 25 for i in range(40)])
    path.write_bytes(path.read_bytes()[:-cut])
    count = len(list(open_source(str(path))))
    assert 37 <= count <= 39
    assert f"ends after {count} frames, its header promises 40; the file is cut off or damaged" in caplog.text


@pytest.mark.parametrize("suffix", ["mkv", "avi", "ts", "webm"])
@pytest.mark.parametrize("rate", ["constant", "variable"])
def test_a_whole_file_whose_header_is_a_guess_is_not_called_damaged(
    tmp_path: Path, suffix: str, rate: str, caplog: pytest.LogCaptureFixture
) -> None:
    times = [number if rate == "constant" or number < 30 else 30 + 7 * (number - 30) for number in range(60)]
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / f"a.{suffix}"), "w") as container:
        stream = container.add_stream({"avi": "mpeg4", "webm": "libvpx-vp9"}.get(suffix, "libx264"), rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for moment in times:
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = moment, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(list(open_source(str(tmp_path / f"a.{suffix}")))) == 60
    assert caplog.text == ""


@pytest.mark.parametrize("times", [[0, 0.04, 0.08, 0.12, 2, 2.04, 5, 9], [i * i / 100 for i in range(40)]])
def test_a_whole_video_of_variable_rate_is_not_called_damaged(
    tmp_path: Path, times: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    frames = list(open_source(str(noise(tmp_path / "a.mp4", times))))
    assert [frame.index for frame in frames] == list(range(len(times)))
    assert [frame.time for frame in frames] == pytest.approx(times, abs=2e-3)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("ratio", "shape"), [("16/15", (48, 68)), ("8/9", (48, 57)), ("1", (48, 64)), ("1000", (48, 64))]
)
def test_pixels_that_are_not_square_are_made_so(tmp_path: Path, ratio: str, shape: tuple[int, int]) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(ratio)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    frames = read(tmp_path / "a.mp4")
    assert [image.shape for image, _ in frames] == [(*shape, 3)] * 3


def test_a_video_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    writer = VideoWriter(tmp_path / "a.mp4", Fraction(25), 64, 64)
    for number in range(150):
        writer.write(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), number / 25)
    (tmp_path / "killed.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())  # what a kill -9 would leave
    writer.close()
    found = read(tmp_path / "killed.mp4")
    assert 60 <= len(found) <= 150
    assert b"moof" in (tmp_path / "killed.mp4").read_bytes()
    whole = (tmp_path / "a.mp4").read_bytes()
    assert b"moof" not in whole
    assert whole.index(b"moov") < whole.index(b"mdat")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.mp4", "killed.mp4"]
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.average_rate) == (150, 25)
        times = [frame.pts * frame.time_base for frame in container.decode(stream)]
    assert times == [Fraction(number, 25) for number in range(150)]


def test_fragments_that_cannot_be_joined_still_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.media.video_writer.move_into_place", full)
    with pytest.raises(OSError, match=r"a\.mp4: cannot be written \(No space left on device\)"):
        write(tmp_path / "a.mp4", Fraction(25), [0, 0.04, 0.08])
    assert len(read(tmp_path / "a.mp4")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="names on Windows are text")
def test_names_that_are_not_utf8_and_names_like_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (os.fsdecode(b"caf\xe9.mp4"), "concat:a.mp4", "12:30.mp4", "a\nb\x1b[2J.mp4"):
        write(Path(name), Fraction(25), [0, 0.04, 0.08])
        assert len(read(Path(name))) == 3
    assert len(list(tmp_path.iterdir())) == 4


def test_playlists_are_followed_only_when_they_are_asked_for(tmp_path: Path) -> None:
    folder, hidden = tmp_path / "clips", tmp_path / "hidden"
    folder.mkdir()
    hidden.mkdir()
    write(hidden / "a.mp4", Fraction(25), [0, 0.04, 0.08])
    write(folder / "b.mp4", Fraction(25), [0, 0.04])
    (folder / "list.mp4").write_text("ffconcat version 1.0\nfile b.mp4\nfile b.mp4\n")
    (folder / "list.mkv").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n../hidden/a.mp4\n#EXT-X-ENDLIST\n")
    source = open_source(str(folder))
    assert source.expected_frames() == 2
    assert [frame.media.name for frame in source] == ["b.mp4", "b.mp4"]
    assert len(source.skipped) == 2
    assert all("a text, such as a playlist that names other files" in message for message in source.skipped)
    (folder / "list.txt").write_text("list.mp4\n")
    assert list(open_source(str(folder / "list.txt"))) == []
    assert list(open_source(str(folder / "*.mkv"))) == []
    assert len(list(open_source(str(folder / "list.mp4")))) == 4


def test_numbers_that_no_camera_has() -> None:
    with pytest.raises(ValueError, match="camera 99999999999999999999 cannot be opened"):
        VideoReader(99999999999999999999)
