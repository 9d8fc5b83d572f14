"""Find objects in images, videos, cameras and streams; with a classifier, say what they show.

python detect.py --source photos/                              # with the newest training run
python detect.py --source 'clips/**/*.mp4' --weights best.pt --save-json
python detect.py --source rtsp://camera/stream --no-save --view
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.media.recorder import Outputs, Recorder
from data.media.sources import Frame, ReadAhead, Source, open_source
from data.media.window import Window
from data.transforms import resize_image
from models.postprocess import NMS_KINDS, postprocess, top_classes
from models.predictor import Predictor, default_weights, open_predictor
from utils.arguments import share, whole_number
from utils.boxes import Letterbox, plan_resize
from utils.config import ROOT, ConfigError, nearest
from utils.draw import draw_detections
from utils.faults import report
from utils.log import Progress, duration, setup_logging
from utils.run import new_run_folder
from utils.structures import Detections

logger = logging.getLogger(__name__)

DETECT = {"conf_thres": 0.25, "iou_thres": 0.45, "max_det": 300}
CLASSIFY = {"conf_thres": 0.0, "max_det": 5}
"""What the command line leaves open, for detectors and for classifiers."""


@dataclass(frozen=True)
class DetectOptions:
    """How frames are looked at.

    Args:
        image_size: (height, width) of the network input.
        resize: 'letterbox', 'stretch' or, for classifiers, 'crop'.
        conf_thres, iou_thres, max_det, nms, classes: as in `postprocess`; nms None takes the model's own kind. A
            classifier gives the `max_det` likeliest classes.
        batch_size: frames at a time.
        every_frame: look at every frame of a camera or stream; else at the newest, and late ones are dropped.
    """

    image_size: tuple[int, int]
    resize: str = "letterbox"
    conf_thres: float = 0.25
    iou_thres: float = 0.45
    max_det: int = 300
    nms: str | None = None
    classes: tuple[int, ...] | None = None
    batch_size: int = 1
    every_frame: bool = False


def detect(predictor: Predictor, source: Source, options: DetectOptions) -> Iterator[tuple[Frame, Detections]]:
    """Every frame of a source with what was found in it, in order, boxes in pixels of the frame.

    Reading, decoding and resizing run ahead in a thread. What lies in the grey of the letterbox alone is left out.
    """

    def prepare() -> Iterator[tuple[Frame, Letterbox, np.ndarray]]:
        for frame in source:
            letterbox = plan_resize(*frame.image.shape[:2], options.image_size, options.resize)
            yield frame, letterbox, resize_image(frame.image, letterbox, options.image_size, mode=options.resize)

    def late(item: tuple[Frame, Letterbox, np.ndarray]) -> bool:
        return item[0].media.kind == "live" and not options.every_frame

    prepared = ReadAhead(prepare(), depth=2 * options.batch_size + 2, may_drop=late)
    try:
        while batch := list(itertools.islice(prepared, options.batch_size)):
            frames, letterboxes, inputs = zip(*batch, strict=True)
            images = torch.from_numpy(np.stack(inputs)).to(predictor.device).permute(0, 3, 1, 2)
            raw = predictor.predict(images.contiguous().float().div_(255))
            yield from zip(frames, found_in(raw, letterboxes, predictor, options), strict=True)
    finally:
        source.stop()
        prepared.close()
        if prepared.dropped:
            logger.info("%d late frames were dropped; --every-frame keeps them", prepared.dropped)


def found_in(
    raw: tuple[Tensor, Tensor] | Tensor, letterboxes: Sequence[Letterbox], predictor: Predictor, options: DetectOptions
) -> list[Detections]:
    """What a model predicted, as detections in pixels of the original images."""
    chosen = {"conf_thres": options.conf_thres, "classes": options.classes}
    if isinstance(raw, Tensor):
        sizes = [(letterbox.height, letterbox.width) for letterbox in letterboxes]
        return top_classes(raw, sizes, most=options.max_det, **chosen)
    nms = {"nms": options.nms or predictor.info.nms, "beta_nms": predictor.info.beta_nms}
    found = postprocess(*raw, iou_thres=options.iou_thres, max_det=options.max_det, **nms, **chosen)
    originals = [each.to_original(letterbox) for each, letterbox in zip(found, letterboxes, strict=True)]
    return [each.select((each.boxes[:, 2:] > each.boxes[:, :2]).all(dim=1)) for each in originals]


@dataclass
class Summary:
    """What a run came across.

    Args:
        names: class names by label.
        task: of the model; of a classifier's classes the first alone is counted.
    """

    names: Sequence[str]
    task: str = "detect"
    frames: int = 0
    media: set[str] = field(default_factory=set)
    objects: Counter[int] = field(default_factory=Counter)
    start: float = field(default_factory=time.monotonic)

    def add(self, frame: Frame, detections: Detections) -> None:
        """Count a frame."""
        self.frames += 1
        self.media.add(frame.media.source)
        self.objects.update(detections.labels[: 1 if self.task == "classify" else None].tolist())

    def line(self, detections: Detections) -> str:
        """What was found in one image."""
        labels, scores = detections.labels.tolist(), detections.scores.tolist()
        if self.task == "detect":
            return count_by_name(Counter(labels), self.names)
        return ", ".join(f"{self.names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)) or "-"

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self.start, 1e-9)
        speed = f"{self.frames / seconds:.1f} images/s"
        many = f"{self.frames} images from {len(self.media)} sources" if self.frames > 1 else f"{self.frames} image"
        return f"Found: {count_by_name(self.objects, self.names)}\n{many} in {duration(seconds)}, {speed}"


def count_by_name(labels: Counter[int], names: Sequence[str]) -> str:
    """'2 dog, 1 truck', the most frequent first."""
    return ", ".join(f"{count} {names[label]}" for label, count in labels.most_common()) or "nothing"


def class_indices(values: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """The zero-based classes that --classes names, by number or by name (letter case aside).

    Raises:
        ConfigError: the model has no such class; names the nearest.
    """
    by_name = {name.casefold(): index for index, name in reversed(list(enumerate(names)))}
    found, problems = [], []
    for value in values:
        if value.isdecimal() and int(value) < len(names):
            found.append(int(value))
        elif value.casefold() in by_name:
            found.append(by_name[value.casefold()])
        elif value.isdecimal():
            problems.append(f"--classes {value}: the model's classes are 0 to {len(names) - 1}")
        else:
            near = nearest(value.casefold(), by_name)
            hint = f" Did you mean '{names[by_name[near]]}'?" if near else ""
            problems.append(f"--classes {value}: the model has no such class.{hint} Known: {', '.join(names)}")
    if problems:
        raise ConfigError("\n".join(problems))
    return tuple(found)


def main(argv: list[str] | None = None) -> int:
    """Command line; 0 when something was processed, 1 when nothing could be, 2 for a wrong command line."""
    args = parse_args(argv)
    setup_logging()
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what FFmpeg says of damaged files names none of them
    try:
        predictor, options = open_model(args)
        window = Window("CSPDet") if args.view else None
    except Exception as error:
        return report(error)
    source = open_source(*args.source)
    try:
        with terminated_as_interrupted():
            return run(args, predictor, options, source, window)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        return report(error)


def open_model(args: argparse.Namespace) -> tuple[Predictor, DetectOptions]:
    """The model and options of the command line.

    Raises:
        ConfigError: whatever is wrong with them.
    """
    weights = Path(args.weights) if args.weights else default_weights()
    predictor = open_predictor(weights, cfg=args.cfg, device=args.device, half=args.half)
    size = (args.img_size, args.img_size) if args.img_size else predictor.image_size
    predictor.info.check_size(size, where="--img-size")
    classify = predictor.info.task == "classify"
    for option in ("iou_thres", "nms"):
        if classify and getattr(args, option) is not None:
            raise ConfigError(
                f"--{option.replace('_', '-')}: is for detectors, and {weights} is a classifier; leave it out"
            )
    if (args.nms or predictor.info.nms) == "none" and args.iou_thres is not None:
        logger.warning("--iou-thres %g is not used: with nms 'none' nothing is suppressed", args.iou_thres)
    usual = CLASSIFY if classify else DETECT
    options = DetectOptions(
        image_size=size,
        resize=args.resize or predictor.resize,
        **{name: default if getattr(args, name) is None else getattr(args, name) for name, default in usual.items()},
        nms=args.nms,
        classes=class_indices(args.classes, predictor.names) if args.classes else None,
        batch_size=args.batch_size,
        every_frame=args.every_frame,
    )
    print(f"Weights: {weights} ({predictor.description}), input {size[0]}x{size[1]} {options.resize}")
    return predictor, options


def run(
    args: argparse.Namespace, predictor: Predictor, options: DetectOptions, source: Source, window: Window | None
) -> int:
    """Look at every frame, write what is wanted, and say what was found; returns the exit status."""
    outputs = Outputs(not args.no_save, args.save_txt or args.save_conf, args.save_conf, args.save_json, args.save_crop)
    total = source.expected_frames()
    tell_images = total is not None and len(source.media) <= 50
    summary, recorder, folder = Summary(predictor.names, predictor.info.task), None, None
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(total, "Detecting")) if total else None
        results = stack.enter_context(contextlib.closing(detect(predictor, source, options)))
        try:
            for frame, detections in results:
                if folder is None and outputs.any:
                    folder = new_run_folder(Path(args.project), args.name)
                    recorder = stack.enter_context(Recorder(folder, predictor.names, outputs))
                summary.add(frame, detections)
                if recorder is not None:
                    recorder.put(frame, detections)
                if tell_images and frame.media.kind == "image":
                    logger.info("%s: %s", frame.media.source, summary.line(detections))
                if progress is not None:
                    progress.advance()
                if window is not None:
                    arrays = (detections.boxes.numpy(), detections.labels.numpy(), detections.scores.numpy())
                    window.show(draw_detections(frame.image, *arrays, predictor.names))
                    if not window.open:
                        break
        except KeyboardInterrupt:
            logger.info("Stopped; what was written so far is whole.")
    if window is not None:
        window.close()
    if source.skipped:
        print(f"Skipped: {len(source.skipped)}, named above")
    if summary.frames == 0:
        print("error: nothing could be processed; see the lines above", file=sys.stderr)
        return 1
    print(summary)
    if folder is not None:
        print(f"Results: {folder}")
    return 0


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a run like Ctrl-C, so that a video stopped from outside can be played too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # Python sets signals nowhere else
        yield
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    parser = argparse.ArgumentParser(description="Find objects in images and videos.", allow_abbrev=False)
    parser.add_argument(
        "--source", nargs="+", required=True, metavar="SOURCE",
        help="image, video, folder, 'glob' in quotes, .txt list, camera number, or rtsp:// or http:// stream",
    )  # fmt: skip
    parser.add_argument(
        "--weights", help=".pt, .weights, .onnx or OpenVINO .xml (default: newest runs/train/*/weights/best.pt)"
    )
    parser.add_argument("--cfg", help="darknet .cfg or model config, for darknet .weights only")
    parser.add_argument("--conf-thres", type=share, help="detections score more than this, 0 to 1 (default: 0.25)")
    parser.add_argument("--iou-thres", type=share, help="NMS removes overlaps above this IoU, 0 to 1 (default: 0.45)")
    parser.add_argument("--max-det", type=whole_number, help="detections kept in an image (default: 300)")
    parser.add_argument("--nms", choices=NMS_KINDS, help="kind of non-maximum suppression (default: the model's)")
    parser.add_argument("--classes", nargs="+", metavar="ID_OR_NAME", help="look for these classes only")
    parser.add_argument(
        "--img-size", type=whole_number, help="side of the network input in pixels (default: the model's)"
    )
    parser.add_argument("--resize", choices=("letterbox", "stretch"), help="how images get their size")
    parser.add_argument("--batch-size", type=whole_number, default=1, help="frames at a time")
    parser.add_argument("--every-frame", action="store_true", help="drop no late frames of cameras and streams")
    parser.add_argument("--device", help="cpu, cuda, cuda:N or mps (default: the fastest there is)")
    parser.add_argument("--half", action="store_true", help="fp16, on CUDA")
    parser.add_argument("--save-txt", action="store_true", help="write YOLO rows 'class cx cy w h' to labels/NAME.txt")
    parser.add_argument("--save-conf", action="store_true", help="add the score as sixth number of a YOLO row")
    parser.add_argument("--save-json", action="store_true", help="write detections.json, boxes in original pixels")
    parser.add_argument("--save-crop", action="store_true", help="cut detections out into crops/CLASS/")
    parser.add_argument("--no-save", action="store_true", help="write no annotated images and videos")
    parser.add_argument("--view", action="store_true", help="show frames in a window; q or Escape ends the run")
    parser.add_argument("--project", default=str(ROOT / "runs" / "detect"), help="folder of runs")
    parser.add_argument("--name", default="exp", help="folder of this run in PROJECT; never overwritten")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
