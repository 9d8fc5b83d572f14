"""A camera that never ends: does memory grow? python benchmarks/stream.py --weights W --minutes 20.

A server on this machine plays a short clip in a loop as Motion JPEG, as network cameras do, and hangs up now and then.
detect.py's own functions look at it and write video, JSON and labels. Every few seconds a line tells the resident
memory, the threads and the open files of the process.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.media.recorder import Outputs
from data.media.sources import open_source
from engine.stream import DetectOptions, process
from models.info import Predictor
from models.predictor import open_predictor
from utils.arguments import Parser, whole_number
from utils.log import say, setup_logging


@dataclass(frozen=True)
class Reading:
    """What the process holds.

    Args:
        seconds: since the start; memory: resident bytes; threads, files: how many are alive and open.
    """

    seconds: float
    memory: int
    threads: int
    files: int

    def __str__(self) -> str:
        return f"{self.seconds:7.0f} s  {self.memory / 1e6:7.1f} MB  {self.threads} threads  {self.files} files"


def clip(frames: int = 50, height: int = 240, width: int = 320) -> list[bytes]:
    """JPEG files of a bright square that goes to and fro."""
    pictures = []
    for index in range(frames):
        image = np.full((height, width, 3), 90, np.uint8)
        x = int((width - 80) * abs(2 * index / frames - 1))
        image[80:160, x : x + 80] = (40, 60, 230)
        pictures.append(cv2.imencode(".jpg", image)[1].tobytes())
    return pictures


@contextlib.contextmanager
def camera(pictures: list[bytes], *, fps: float = 25, hang_up_s: float = 60) -> Iterator[str]:
    """The address of a camera on this machine that plays pictures in a loop; each connection ends after a time."""

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            start = time.monotonic()
            with contextlib.suppress(OSError):  # the other side may hang up first
                for number in range(int(hang_up_s * fps)):
                    picture = pictures[number % len(pictures)]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                    self.wfile.write(head.encode() + picture + b"\r\n")
                    time.sleep(max(start + (number + 1) / fps - time.monotonic(), 0))

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="camera", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/live"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def watch(
    predictor: Predictor, options: DetectOptions, url: str, outputs: Outputs, *, seconds: float, every: float
) -> tuple[list[Reading], str]:
    """Look at a stream for some time, and what the process held every so many seconds; and the summary."""
    readings, start, over = list[Reading](), time.monotonic(), threading.Event()
    source = open_source(url)

    def read() -> None:
        while not over.wait(every):
            readings.append(reading(time.monotonic() - start))
            say(readings[-1])
            if time.monotonic() - start > seconds:
                source.stop()

    reader = threading.Thread(target=read, name="readings", daemon=True)
    reader.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            summary, _ = process(predictor, source, options, outputs, project=Path(folder), name="exp")
    finally:
        over.set()
        reader.join()
    return readings, str(summary)


def reading(seconds: float) -> Reading:
    """What this process holds now; where the system does not tell, the most memory it has held, and no files."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        files = len(os.listdir("/proc/self/fd"))
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return Reading(seconds, memory, threading.active_count(), 0)
    return Reading(seconds, pages * resource.getpagesize(), threading.active_count(), files)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = Parser(description="Look at a camera that never ends, and tell what the process holds.")
    parser.add_argument("--weights", required=True, help="as of detect.py")
    parser.add_argument("--minutes", type=whole_number, default=20, help="how long (default: 20)")
    parser.add_argument("--every", type=whole_number, default=30, help="seconds between two lines (default: 30)")
    args = parser.parse_args(argv)
    setup_logging()
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # as detect.py
    predictor = open_predictor(args.weights, device="cpu")
    options = DetectOptions(predictor.image_size, predictor.resize, conf_thres=0.0, max_det=10)  # there is much to draw
    with camera(clip()) as url:
        outputs = Outputs(txt=True, json=True, jsonl=True)
        seconds = 60 * args.minutes
        _, summary = watch(predictor, options, url, outputs, seconds=seconds, every=args.every)
    say(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
