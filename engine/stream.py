"""Frames in, detections out: what detect.py does with images, videos, cameras and streams."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from data.media.recorder import Outputs, Recorder
from data.media.sources import Frame, Source
from data.media.window import Window
from data.transforms import resize_image
from engine.summary import Summary
from engine.tiles import merge_tiles
from models.info import ModelInfo, Predictor, Values
from models.postprocess import least_score, postprocess, top_classes, with_temperature
from utils.boxes import Letterbox, least_shape, plan_resize
from utils.config import ConfigError, nearest
from utils.draw import draw_detections
from utils.log import Progress
from utils.metrics.calibration import calibrated
from utils.program import terminated_as_interrupted
from utils.read_ahead import ReadAhead, side_by_side
from utils.run import new_run_folder
from utils.structures import Detections
from utils.text import listed, printable, shorten, shown
from utils.thresholds import Thresholds
from utils.tiles import Grid, Tile
from utils.timings import Timings

logger = logging.getLogger(__name__)

T = TypeVar("T")

MANY = 16
"""Frames from which on several are looked at at once, by a predictor made for it."""


class Prepared(NamedTuple):
    """A frame as the network sees it: its tiles, or one that is all of it.

    Args:
        letterboxes: how each goes into the network; inputs: the (h, w, 3) uint8 input of each, all of one shape.
    """

    tiles: tuple[Tile, ...]
    letterboxes: tuple[Letterbox, ...]
    inputs: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class DetectOptions:
    """How frames are looked at.

    Args:
        image_size: (height, width) of the network input.
        resize: as in `plan_resize`.
        conf_thres, iou_thres, max_det, nms, classes: as in `postprocess`; nms None takes the model's own kind. A
            classifier gives the `max_det` likeliest classes. Scores are compared as they are given in the end, with
            the model's temperature.
        thresholds: what the scores of each class must be above, in place of `conf_thres`.
        batch_size: frames at a time.
        every_frame: look at every frame of a camera or stream; else at the newest, and late ones are dropped.
        rectangle: letterbox each frame to the smallest input that holds it (`least_shape`), not to all of `image_size`.
        grid: look at the tiles of each frame, and merge what is found in them; None looks at whole frames.
    """

    image_size: tuple[int, int]
    resize: str = "letterbox"
    conf_thres: float = 0.25
    thresholds: Thresholds | None = None
    iou_thres: float = 0.45
    max_det: int = 300
    nms: str | None = None
    classes: tuple[int, ...] | None = None
    batch_size: int = 1
    every_frame: bool = False
    rectangle: bool = False
    grid: Grid | None = None

    def limits(self, temperature: float) -> float | np.ndarray:
        """What scores must be above before the temperature is applied: one number, or (C,) one for each class."""
        limits = self.conf_thres if self.thresholds is None else self.thresholds.of_labels()
        return limits if temperature == 1 else calibrated(np.asarray(limits), 1 / temperature)

    def prepare_all(self, image: np.ndarray, stride: int) -> Prepared:
        """An image (H, W, 3) uint8 RGB as the network sees it: whole, or each of its tiles."""
        height, width = image.shape[:2]
        tiles = (Tile(0, 0, width, height, height, width),) if self.grid is None else self.grid.tiles(height, width)
        letterboxes, inputs = zip(*(self.prepare(tile.cut(image), stride) for tile in tiles), strict=True)
        return Prepared(tiles, letterboxes, inputs)

    def prepare(self, image: np.ndarray, stride: int) -> tuple[Letterbox, np.ndarray]:
        """How an image (H, W, 3) uint8 RGB goes into the network, and the network's input (h, w, 3) of it.

        Args:
            stride: both sides of the input are multiples of it.
        """
        height, width = image.shape[:2]
        shape = self.image_size
        if self.rectangle:
            shape = least_shape(height, width, shape, stride, self.resize)
        letterbox = plan_resize(height, width, self.image_size, self.resize, shape=shape)
        return letterbox, resize_image(image, letterbox, shape, mode=self.resize)


def detect(
    predictor: Predictor, source: Source, options: DetectOptions, timings: Timings | None = None
) -> Generator[tuple[Frame, Detections], None, None]:
    """Every frame of a source with what was found in it, in order, boxes in pixels of the frame.

    Reading, decoding and resizing run ahead in a thread. On a CPU, several frames of videos and of many images are
    looked at at once; of cameras and streams one, because late detections are worth less. What lies in the grey of the
    letterbox alone is left out.

    Args:
        timings: where the times of the stages up to 'postprocess' are noted.
    """
    timings = timings or Timings()

    def prepare() -> Iterator[tuple[Frame, Prepared]]:
        for frame in measured(source, timings, "read"):
            with timings.measure("prepare"):
                prepared = options.prepare_all(frame.image, predictor.info.stride)
            yield frame, prepared

    def late(item: tuple[Frame, Prepared]) -> bool:
        return item[0].media.kind == "live" and not options.every_frame

    prepared = ReadAhead(prepare(), depth=2 * options.batch_size + 2, may_drop=late)
    try:
        shapes = itertools.groupby(prepared, key=lambda item: item[1].inputs[0].shape)  # a stream may change its own
        batches = (batch for _, alike in shapes for batch in _batches(alike, options.batch_size))
        with predictor.side_by_side() if _many(source) else contextlib.nullcontext(predictor) as shared:

            def look(batch: list[tuple[Frame, Prepared]]) -> list[tuple[Frame, Detections]]:
                found = find(shared, [each for _, each in batch], options, timings)
                return [(frame, detections) for (frame, _), detections in zip(batch, found, strict=True)]

            with contextlib.closing(
                side_by_side(look, batches, threads=shared.calls, begin=shared.begin_thread)
            ) as results:
                yield from itertools.chain.from_iterable(results)
    finally:
        source.stop()
        prepared.close()
        if prepared.dropped:
            logger.info("%d late frames were dropped; --every-frame keeps them", prepared.dropped)


def _many(source: Source) -> bool:
    """Whether a source has so many frames that their number a second counts, not the time of each."""
    if any(media.kind == "live" for media in source.media):
        return False
    if len(source.media) >= MANY:  # so their headers need not be read once more
        return True
    frames = source.expected_frames()
    return frames is None or frames >= MANY


def find(
    predictor: Predictor, frames: Sequence[Prepared], options: DetectOptions, timings: Timings | None = None
) -> list[Detections]:
    """What is found in each of some frames, boxes in pixels of the frame; their inputs have one shape.

    Args:
        timings: as of `detect`.
    """
    parts = [part for frame in frames for part in zip(frame.letterboxes, frame.inputs, strict=True)]
    found, seconds = list[Detections](), 0.0
    temperature = predictor.info.temperature
    least = least_score(float(np.min(options.limits(temperature))), options.nms or predictor.info.nms)
    begin = time.perf_counter()
    for batch in _batches(parts, options.batch_size):
        letterboxes, inputs = zip(*batch, strict=True)
        start = time.perf_counter()
        raw = predictor.candidates(np.stack(inputs).transpose(0, 3, 1, 2), least)
        seconds += time.perf_counter() - start
        found += detections_of_frames(raw, letterboxes, predictor.info, options)
    if options.grid is not None:
        each = iter(found)
        found = [
            merge_tiles(
                frame.tiles,
                list(itertools.islice(each, len(frame.tiles))),
                iou_thres=options.iou_thres,
                max_det=options.max_det,
            )
            for frame in frames
        ]
    found = [with_temperature(each, temperature) for each in found]
    if timings is not None:
        timings.add("inference", seconds, frames=len(frames))
        timings.add("postprocess", time.perf_counter() - begin - seconds, frames=len(frames))
    return found


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def measured(items: Iterable[T], timings: Timings, stage: str) -> Iterator[T]:
    """The same items; how long each of them takes to come is noted."""
    iterator = iter(items)
    while True:
        begin = time.perf_counter()
        try:
            item = next(iterator)
        except StopIteration:
            return
        timings.add(stage, time.perf_counter() - begin)
        yield item


def detections_of_frames(
    raw: tuple[Values, Values] | Values, letterboxes: Sequence[Letterbox], info: ModelInfo, options: DetectOptions
) -> list[Detections]:
    """What a model predicted, as detections in pixels of the original images.

    Args:
        raw: as `Predictor.predict` gives it for B images; the detections have these scores, without a temperature.
        letterboxes: B maps from the original images to the network input.
    """
    detections = _in_originals(raw, letterboxes, info, options)
    return [replace(each, class_names=info.names, category_ids=info.category_ids) for each in detections]


def _in_originals(
    raw: tuple[Values, Values] | Values, letterboxes: Sequence[Letterbox], info: ModelInfo, options: DetectOptions
) -> list[Detections]:
    if not isinstance(raw, tuple):
        sizes = [(letterbox.height, letterbox.width) for letterbox in letterboxes]
        return top_classes(raw, sizes, most=options.max_det, conf_thres=options.conf_thres, classes=options.classes)
    detections = postprocess(
        *raw,
        conf_thres=options.limits(info.temperature),
        iou_thres=options.iou_thres,
        max_det=options.max_det,
        nms=options.nms or info.nms,
        beta_nms=info.beta_nms,
        classes=options.classes,
    )
    originals = [each.to_original(letterbox) for each, letterbox in zip(detections, letterboxes, strict=True)]
    return [each.select(np.all(each.boxes[:, 2:] > each.boxes[:, :2], axis=1)) for each in originals]


def class_indices(values: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """The zero-based classes that --classes names, by number or by name (letter case aside).

    Raises:
        ConfigError: the model has no such class; names the nearest.
    """
    by_name = {name.casefold(): index for index, name in reversed(list(enumerate(names)))}
    labels, problems = [], []
    for value in values:
        if value.isdecimal() and int(value) < len(names):
            labels.append(int(value))
        elif value.casefold() in by_name:
            labels.append(by_name[value.casefold()])
        elif value.isdecimal():
            problems.append(f"--classes {shorten(value)}: the model's classes are 0 to {len(names) - 1}")
        else:
            near = nearest(value.casefold(), by_name)
            hint = f" Did you mean {shown(names[by_name[near]])}?" if near else ""
            problems.append(f"--classes {shorten(value)}: the model has no such class.{hint} Known: {listed(names)}")
    if problems:
        raise ConfigError(*problems)
    return tuple(labels)


def process(
    predictor: Predictor,
    source: Source,
    options: DetectOptions,
    outputs: Outputs,
    *,
    project: Path,
    name: str,
    window: Window | None = None,
) -> tuple[Summary, Path | None]:
    """Look at every frame of a source: write what is wanted, show it, and tell what each of a few images shows.

    Ctrl-C and SIGTERM end it early; what was written so far is whole.

    Args:
        outputs: what to write, into a new folder PROJECT/NAME that is made when the first frame is there.
        window: where to show the frames; closed in the end, and closing it ends the run.
    Returns:
        What was found, and the folder, None where nothing was written.
    Raises:
        OSError, ValueError: a file cannot be written.
    """
    total = source.expected_frames()
    tell_images = total is not None and len(source.media) <= 50
    summary, recorder, folder = Summary(predictor.names, predictor.info.task), None, None
    with contextlib.ExitStack() as stack:
        stack.enter_context(terminated_as_interrupted())
        if window is not None:
            stack.callback(window.close)
        progress = stack.enter_context(Progress(total or 0, "Detecting", quiet=not total))
        results = stack.enter_context(contextlib.closing(detect(predictor, source, options, summary.timings)))
        try:
            for frame, detections in results:
                if recorder is None and outputs.any:
                    folder = new_run_folder(project, name)
                    recorder = stack.enter_context(
                        Recorder(folder, predictor.names, outputs, media=source.media, timings=summary.timings)
                    )
                summary.add(frame, detections)
                if recorder is not None:
                    recorder.put(frame, detections)
                if tell_images and frame.media.kind == "image":
                    logger.info("%s: %s", printable(frame.media.source), summary.line(detections))
                progress.advance()
                if window is not None:
                    boxes, labels, scores = detections.boxes, detections.labels, detections.scores
                    window.show(draw_detections(frame.image, boxes, labels, scores, predictor.names))
                    if not window.open:
                        break
        except KeyboardInterrupt:
            logger.info("Stopped; what was written so far is whole.")
    summary.reconnects = source.reconnects
    return summary, folder
