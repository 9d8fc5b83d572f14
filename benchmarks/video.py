"""Time of a video's frames by stage: python benchmarks/video.py --weights best.pt best.onnx --source clip.mp4.

The frames go through the stages of detect.py one after another, where detect.py does some beside others. The time is
that of the process on its cores, which other programs hardly change.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.media.sources import open_source
from data.media.video import NOMINAL_FPS
from data.media.video_writer import VideoWriter
from engine.stream import DetectOptions, detections_of_frames
from models.info import Predictor
from models.predictor import open_predictor
from utils.arguments import Parser, share, whole_number
from utils.draw import draw_detections
from utils.launch import run_together
from utils.log import say
from utils.threads import limit_threads
from utils.timings import STAGES

WARM_UPS = 5
"""Frames that do not count."""


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    return run_together(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = Parser(description="Time of a video's frames by stage.")
    parser.add_argument("--weights", nargs="+", required=True, help="checkpoints and exported files")
    parser.add_argument("--source", required=True, help="video")
    parser.add_argument("--conf-thres", type=share, default=0.25, help="detections score more than this")
    parser.add_argument("--frames", type=whole_number, default=200, help="of the video")
    parser.add_argument("--threads", type=whole_number, default=1, help="CPU threads")
    args = parser.parse_args(argv)
    limit_threads(args.threads)
    say(f"{args.source}, {args.threads} threads; medians of {args.frames} frames, ms of the process")
    say(f"{'':24}" + "".join(f"{stage:>12}" for stage in (*STAGES, "all")))
    for weights in args.weights:
        predictor = open_predictor(weights, device="cpu", threads=args.threads)
        options = DetectOptions(predictor.image_size, conf_thres=args.conf_thres, rectangle=True)
        with tempfile.TemporaryDirectory() as folder:
            times, encoder = measure(predictor, options, args.source, args.frames, Path(folder, "video.mp4"))
        middle = 1000 * np.median(times, axis=0)
        say(f"{Path(weights).name:24}" + "".join(f"{value:12.2f}" for value in (*middle, middle.sum())))
    say(f"Encoder: {encoder}")
    return 0


def measure(
    predictor: Predictor, options: DetectOptions, video: str, frames: int, output: Path
) -> tuple[np.ndarray, str]:
    """(frames, stages) seconds, and what has written the video."""
    writer: VideoWriter | None = None
    marks = []
    source = iter(open_source(video))
    for _ in range(frames + WARM_UPS):
        mark = [time.process_time()]
        if (frame := next(source, None)) is None:
            break
        mark.append(time.process_time())
        letterbox, image = options.prepare(frame.image, predictor.info.stride)
        mark.append(time.process_time())
        least = float(options.limits(predictor.info.temperature))
        raw = predictor.candidates(image[None].transpose(0, 3, 1, 2), least)
        mark.append(time.process_time())
        (found,) = detections_of_frames(raw, [letterbox], predictor.info, options)
        mark.append(time.process_time())
        drawn = draw_detections(frame.image, found.boxes, found.labels, found.scores, predictor.names)
        mark.append(time.process_time())
        if writer is None:
            writer = VideoWriter(output, frame.media.fps or NOMINAL_FPS, drawn.shape[0], drawn.shape[1])
        writer.write(drawn, frame.time)
        marks.append([*mark, time.process_time()])
    if writer is None:
        raise ValueError(f"{video}: no frame can be read")
    writer.close()
    return np.diff(marks[WARM_UPS:], axis=1), writer.encoder


if __name__ == "__main__":
    sys.exit(main())
