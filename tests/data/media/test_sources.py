"""Sources: frames of all that --source names, bad files, lost streams, and reading ahead."""

from __future__ import annotations

import http.server
import logging
import socket
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data.media import sources
from data.media.sources import Frame, Source, open_source
from data.media.video_writer import VideoWriter
from tests.data.media.test_find import save_image, save_video


def test_frames_of_images_and_videos(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg", 50)
    save_video(tmp_path / "b.mp4")
    source = open_source(str(tmp_path / "a.jpg"), str(tmp_path / "b.mp4"))
    assert [media.kind for media in source.media] == ["image", "video"]
    assert source.expected_frames() == 6
    frames = list(source)
    assert [frame.index for frame in frames] == [0, 0, 1, 2, 3, 4]
    assert [round(frame.time, 6) for frame in frames] == [0, 0, 0.08, 0.16, 0.24, 0.32]
    assert frames[0].image.shape == (20, 30, 3)
    assert frames[5].image.mean() == pytest.approx(160, abs=4)
    assert frames[5].media.fps == Fraction(25, 2)
    assert frames[1].media is frames[5].media


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_every_nth_frame_keeps_its_index_and_time(tmp_path: Path, step: int) -> None:
    save_image(tmp_path / "a.jpg", 50)
    save_video(tmp_path / "b.mp4")
    every = list(open_source(str(tmp_path)))
    source = open_source(str(tmp_path), frame_step=step)
    frames = list(source)
    assert source.expected_frames() == len(frames) == 1 + len(range(0, 5, step))
    assert [frame.index for frame in frames] == [0, *range(0, 5, step)]
    for frame, same in zip(frames, [every[0], *every[1::step]], strict=True):
        assert (frame.index, frame.time, frame.source) == (same.index, same.time, same.source)
        assert np.array_equal(frame.image, same.image)
    assert frames[1].media.fps == Fraction(25, 2) / step


def test_frames_know_when_they_were_read(tmp_path: Path) -> None:
    before = time.monotonic()
    first, second = islice(open_source(str(save_video(tmp_path / "b.mp4"))), 2)
    assert before <= first.taken <= second.taken <= time.monotonic()


def test_images_are_upright_and_rgb(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20), (250, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    (frame,) = open_source(str(tmp_path / "a.png"))
    assert frame.image.shape == (30, 20, 3)
    assert tuple(frame.image[5, 5]) == (250, 10, 20)


def test_bad_files_are_named_and_the_rest_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_image(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"damaged")
    (tmp_path / "c.mp4").write_bytes(b"damaged too")
    save_image(tmp_path / "d.png")
    source = open_source(str(tmp_path), str(tmp_path / "absent.jpg"), str(tmp_path / "a.jpg"))
    with caplog.at_level(logging.WARNING):
        assert [Path(frame.media.source).name for frame in source] == ["a.jpg", "d.png", "a.jpg"]
    assert len(source.skipped) == 3
    for name in ("b.jpg", "c.mp4", "absent.jpg"):
        assert sum(f"{name}: " in message for message in source.skipped) == 1
    assert "skipped: " in caplog.text


def test_a_video_that_is_cut_off_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = VideoWriter(tmp_path / "whole.mp4", Fraction(25), 64, 64)
    rng = np.random.default_rng(0)
    for index in range(60):
        writer.write(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), index / 25)
    writer.close()
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        frames = list(open_source(str(tmp_path / "cut.mp4")))
    assert 0 < len(frames) < 50
    assert "its header promises 60" in caplog.text


def test_stop_ends_the_iteration(tmp_path: Path) -> None:
    source = open_source(str(save_video(tmp_path / "a.mp4")))
    frames = iter(source)
    next(frames)
    source.stop()
    assert list(frames) == []


class FakeCamera:
    """Stands in for VideoReader: each opening plays the next of `scripts`; None cannot be opened."""

    scripts: list[int | None] = []
    fps: Fraction | None = None
    frames = None

    def __init__(self, source: str | int, *, timeout_s: float) -> None:
        left = self.scripts.pop(0)
        if left is None:
            raise ValueError("cannot be opened")
        self.left = left

    def read(self, *, wanted: bool = True) -> tuple[np.ndarray, float] | None:
        self.left -= 1
        return (np.zeros((4, 4, 3), np.uint8), 0.0) if self.left >= 0 else None

    def close(self) -> None:
        pass


def play(
    monkeypatch: pytest.MonkeyPatch, scripts: list[int | None], *, frame_step: int = 1
) -> tuple[list[Frame], Source]:
    monkeypatch.setattr(sources, "VideoReader", FakeCamera)
    monkeypatch.setattr(sources, "RECONNECT_DELAYS_S", (0.001, 0.002))
    monkeypatch.setattr(FakeCamera, "scripts", scripts)
    source = open_source("rtsp://user:secret@host/a", frame_step=frame_step)
    assert source.media[0].kind == "live"
    assert source.expected_frames() is None
    return list(source), source


def test_a_lost_stream_is_reached_again_a_few_times(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    frames, source = play(monkeypatch, [3, None, 2, 0, 0])
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    times = [frame.time for frame in frames]
    assert times == sorted(times)
    assert source.skipped == ["rtsp://host/a: lost after 5 frames, and 2 attempts to reach it again failed"]
    assert source.reconnects == 1
    assert "attempt 2 to reach it again" in caplog.text
    assert "secret" not in caplog.text


def test_every_nth_frame_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, source = play(monkeypatch, [4, 1, 4, None, 3, 0, 0], frame_step=3)
    assert [frame.index for frame in frames] == [0, 3, 6, 9]
    assert source.reconnects == 3


def test_a_stream_that_never_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, source = play(monkeypatch, [None])
    assert frames == []
    assert source.skipped == ["rtsp://host/a: cannot be opened"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of an HTTP server for tmp_path."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_files_behind_urls(tmp_path: Path, server: str) -> None:
    save_image(tmp_path / "a.png", 77)
    save_video(tmp_path / "b.mp4", 4)
    source = open_source(f"{server}/a.png", f"{server}/b.mp4", f"{server}/absent.png")
    frames = list(source)
    assert [(frame.media.name, frame.index) for frame in frames] == [("a.png", 0), *(("b.mp4", i) for i in range(4))]
    assert (frames[0].image == 77).all()
    assert len(source.skipped) == 1
    assert "absent.png: cannot be fetched" in source.skipped[0]


def test_an_answer_that_is_none_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for text in (b"\x00\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"):
                connection, _ = listener.accept()
                connection.recv(4096)
                connection.sendall(text)
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        source = open_source(*[f"http://127.0.0.1:{listener.getsockname()[1]}/a.png"] * 2)
        assert list(source) == []
    assert len(source.skipped) == 2
    assert all("a.png: cannot be fetched (" in message for message in source.skipped)


def test_playlists_behind_urls_are_followed_only_when_they_are_asked_for(tmp_path: Path, server: str) -> None:
    save_video(tmp_path / "b.mp4", 4)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{server}/b.mp4\n#EXT-X-ENDLIST\n"
    for name in ("list.mp4", "list.m3u8", "list"):
        (tmp_path / name).write_text(playlist)
    (tmp_path / "list.txt").write_text(
        "".join(f"{server}/{name}\n" for name in ("list.mp4", "b.mp4", "list.m3u8", "list"))
    )
    source = open_source(str(tmp_path / "list.txt"))
    assert [frame.media.name for frame in source] == ["b.mp4"] * 4
    assert len(source.skipped) == 3
    assert all("a text, such as a playlist that names other files" in message for message in source.skipped)
    assert len(list(open_source(f"{server}/list.m3u8"))) == 4


def test_real_files(shared: Path) -> None:
    source = open_source(str(shared / "data" / "images"))
    frames = list(source)
    assert [frame.media.name for frame in frames][3:] == ["dog.jpg", "horses.jpg", "person.jpg"]
    assert source.expected_frames() == 6
    dog = cv2.cvtColor(cv2.imread(str(shared / "data" / "images" / "dog.jpg")), cv2.COLOR_BGR2RGB)
    assert np.abs(frames[3].image.astype(int) - dog).max() <= 3
