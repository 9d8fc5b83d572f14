"""load_detector(): the Python interface, with the results of detect.py for pictures, videos, cameras and streams."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
from PIL import Image

from data.images import read_image
from data.media.find import VIDEO_SUFFIXES, is_url
from data.media.sizes import of_one_shape
from data.media.sources import Frame, Source, open_source
from engine.stream import DetectOptions, class_indices, detect, find
from engine.tiles import grid_of
from models.info import Predictor, Values
from models.predictor import check_file, default_weights
from models.runtime_cache import open_fastest
from utils.arguments import AUTO
from utils.choices import DETECTOR_RESIZES, PADDED, RUNTIMES
from utils.config import ConfigError
from utils.rgb import as_rgb
from utils.structures import Detections
from utils.text import printable, shown
from utils.threads import limit_threads

Picture: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray"
"""A path, a Pillow image, or an (H, W, 3) uint8 RGB array."""


def load_detector(
    weights: str | os.PathLike[str] | None = None,
    *,
    cfg: str | os.PathLike[str] | None = None,
    runtime: str = "auto",
    device: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: str | None = None,
    square: bool = False,
    half: bool = False,
    threads: int | None = None,
    trust: bool = False,
) -> Detector:
    """A detector or classifier that is ready to be called.

    Args:
        weights: what --weights takes: .pt, .weights, .pth, .safetensors, .onnx, an OpenVINO .xml, or .torchscript. None
            is the newest `runs/train/*/weights/best.pt` of the folder that the program runs in.
        cfg: the model file of darknet .weights and YOLOX .pth.
        runtime: 'auto', 'torch', 'onnx' or 'openvino', as --runtime. 'auto' and the last two export a checkpoint once,
            into `runs/cache` of the folder that the program runs in.
        device: 'cpu', 'cuda', 'cuda:N' or 'mps'; None is the fastest there is.
        image_size: of the network input, the side in pixels or (height, width); None is the model's own.
        resize: 'letterbox', 'corner' or 'stretch'; None is the model's own.
        square: letterbox to the whole square, as --square.
        half: fp16, on CUDA.
        threads: CPU threads of this whole program, as --threads.
        trust: open .torchscript too. THAT RUNS CODE FROM THE FILE: only for files whose origin is trusted.
    Raises:
        ConfigError: a ValueError that says what is wrong with a file or value, and what to do.
    """
    for name, value, known in (("runtime", runtime, RUNTIMES), ("resize", resize, (None, *DETECTOR_RESIZES))):
        if value not in known:
            raise ConfigError(f"{name}: expected one of {', '.join(filter(None, known))}, found {shown(value)}")
    path = default_weights() if weights is None else Path(weights)
    check_file(path, trust=trust)
    if threads is not None:
        limit_threads(threads)
    predictor, why = open_fastest(
        path,
        runtime=runtime,
        cfg=None if cfg is None else Path(cfg),
        device=device,
        half=half,
        trust=trust,
        threads=threads,
    )
    size = (image_size, image_size) if isinstance(image_size, int) else image_size or predictor.image_size
    predictor.info.check_size(size, where="image_size")
    detector = Detector(predictor, image_size=size, resize=resize or predictor.resize, square=square)
    detector.description += f" ({why})" if why else ""
    return detector


class Detector:
    """Finds objects in pictures, videos, cameras and streams; a classifier says what a picture shows.

    It may be shared by threads: the network works for one of them at a time, and the rest runs beside it. Processes
    each load their own.

    Args:
        predictor: the model.
        image_size: (height, width) of the network input.
        resize: as in `plan_resize`.
        square: letterbox to all of `image_size`; else to the smallest part of it that holds a picture, unless pictures
            of several shapes are in a batch or a source.
    """

    def __init__(self, predictor: Predictor, *, image_size: tuple[int, int], resize: str, square: bool = False) -> None:
        self._predictor = _OneAtATime(predictor)
        self.image_size, self.resize = image_size, resize
        self.rectangle = resize in PADDED and not (square or predictor.info.fixed_size)
        """Whether pictures get the least padding."""
        self.names = predictor.names
        """Class names by label."""
        self.task = predictor.info.task
        """'detect' or 'classify'."""
        self.description = predictor.description
        """What runs the model, in one line."""
        self.thresholds = predictor.info.thresholds
        """What conf='auto' takes: `conf` of all classes, `by_class` of those that have their own; None if unknown."""

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"<Detector: {printable(self.description)}, input {height}x{width} {self.resize}>"

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a text is a sequence of texts, but no list of pictures
        self,
        pictures: Picture,
        *,
        conf: float | str | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: Sequence[int | str] | None = None,
        nms: str | None = None,
        tile: int | bool | None = None,
        overlap: float | None = None,
        batch_size: int = 1,
    ) -> Detections: ...

    @overload
    def __call__(
        self,
        pictures: Sequence[Picture],
        *,
        conf: float | str | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: Sequence[int | str] | None = None,
        nms: str | None = None,
        tile: int | bool | None = None,
        overlap: float | None = None,
        batch_size: int = 1,
    ) -> list[Detections]: ...

    def __call__(
        self,
        pictures: Any,
        *,
        conf: float | str | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: Sequence[int | str] | None = None,
        nms: str | None = None,
        tile: int | bool | None = None,
        overlap: float | None = None,
        batch_size: int = 1,
    ) -> Detections | list[Detections]:
        """What is found in a picture, or in each of a list of them, boxes in pixels of the upright picture.

        Args:
            pictures: a path, a Pillow image, an (H, W, 3) uint8 RGB array, or a list of them.
            conf: detections score more than this, 0 to 1 (0.25; of a classifier 0), or 'auto': what gave the best F1 on
                val, as the file has it (`thresholds`).
            iou: NMS removes overlaps above this IoU, 0 to 1 (0.45).
            max_det: detections kept in a picture (300; of a classifier 5).
            classes: look for these alone, by number or name.
            nms: kind of non-maximum suppression; None is the model's.
            tile: look at each picture in tiles of this side in pixels, and merge what is found; True takes the network
                input's.
            overlap: share of a tile that its neighbour has too, 0 to 0.9 (0.2).
            batch_size: pictures of a list, or tiles, that the network sees at a time; more than 1 is faster on a GPU
                alone.
        Returns:
            Detections, best score first, or as many of them as the list has pictures.
        Raises:
            ValueError: a picture that cannot be read, or a wrong value; says what was expected.
        """
        options = self._options(conf, iou, max_det, classes, nms, batch_size, tile=tile, overlap=overlap)
        if isinstance(pictures, list | tuple):
            batches = (pictures[start : start + batch_size] for start in range(0, len(pictures), batch_size))
            return [found for batch in batches for found in self._look(batch, options)]
        return self._look([pictures], options)[0]

    def stream(
        self,
        source: str | int | os.PathLike[str] | Sequence[str | int | os.PathLike[str]],
        *,
        conf: float | str | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: Sequence[int | str] | None = None,
        nms: str | None = None,
        tile: int | bool | None = None,
        overlap: float | None = None,
        batch_size: int = 1,
        frame_step: int = 1,
        every_frame: bool = False,
    ) -> Iterator[tuple[Frame, Detections]]:
        """Every frame of videos, cameras, streams, folders and lists with what is found in it, in order.

        Frames are read ahead in a thread, which ends with the iteration or when the iterator is closed. A file that
        cannot be read is logged and left out.

        Args:
            source: what --source takes, or a list of it; a number is a camera.
            conf, iou, max_det, classes, nms, tile, overlap, batch_size: as when called.
            frame_step: look at every Nth frame of videos, cameras and streams.
            every_frame: give late frames of cameras and streams too; else the newest, and late ones are dropped.
        Returns:
            An iterator over (frame, detections). A Frame has `image` (H, W, 3) uint8 RGB, `index` from 0 and `time` in
            seconds in its source, and `source`, what it comes from.
        Raises:
            ValueError: a wrong value, or a source that names nothing; while iterating, if no frame at all can be read.
        """
        if frame_step < 1:
            raise ValueError(f"frame_step: expected a whole number from 1, found {frame_step}")
        options = self._options(conf, iou, max_det, classes, nms, batch_size, tile=tile, overlap=overlap)
        options = replace(options, every_frame=every_frame)
        several = source if isinstance(source, list | tuple) else [source]
        opened = open_source(*map(str, several), frame_step=frame_step)
        if not opened.media:
            raise ValueError("\n".join(opened.skipped) or "source: an empty list")
        options = replace(options, rectangle=options.rectangle and of_one_shape(opened.media))
        return self._frames(opened, options)

    def _frames(self, source: Source, options: DetectOptions) -> Iterator[tuple[Frame, Detections]]:
        count = 0
        with contextlib.closing(detect(self._predictor, source, options)) as results:
            for found in results:
                count += 1
                yield found
        if not count:
            raise ValueError("\n".join(source.skipped) or "source: no frame can be read")

    def _look(self, pictures: Sequence[Picture], options: DetectOptions) -> list[Detections]:
        images = [read_picture(picture) for picture in pictures]
        alike = len({image.shape for image in images}) == 1
        options = replace(options, rectangle=options.rectangle and alike)
        prepared = [options.prepare_all(image, self._predictor.info.stride) for image in images]
        return find(self._predictor, prepared, options)

    def _options(
        self,
        conf: float | str | None,
        iou: float | None,
        max_det: int | None,
        classes: Sequence[int | str] | None,
        nms: str | None,
        batch_size: int,
        *,
        tile: int | bool | None,
        overlap: float | None,
    ) -> DetectOptions:
        """The same as of detect.py for these values."""
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a whole number from 1, found {batch_size}")
        classify = self.task == "classify"
        for name, value in (("iou", iou), ("nms", nms)):
            if classify and value is not None:
                raise ValueError(f"{name}: is for detectors, and this is a classifier; leave it out")
        if isinstance(conf, str) and conf != AUTO:
            raise ValueError(f"conf: expected a number from 0 to 1 or 'auto', found {shown(conf)}")
        thresholds = self._predictor.info.auto_thresholds(where="conf='auto'") if isinstance(conf, str) else None
        side = (0 if tile else None) if isinstance(tile, bool) else tile  # 0: that of the network input
        return DetectOptions(
            image_size=self.image_size,
            resize=self.resize,
            conf_thres=0.0 if classify and conf is None else 0.25 if conf is None or isinstance(conf, str) else conf,
            thresholds=thresholds,
            iou_thres=0.45 if iou is None else iou,
            max_det=max_det if max_det is not None else 5 if classify else 300,
            nms=nms,
            classes=None if classes is None else class_indices(list(map(str, classes)), self.names),
            batch_size=batch_size,
            rectangle=self.rectangle,
            grid=grid_of(side, overlap, image_size=self.image_size, classify=classify),
        )


def read_picture(picture: Picture) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a path, Pillow image or array, upright; see `read_image` and `as_rgb`.

    Raises:
        ValueError: it cannot be read, or is something else.
    """
    if not isinstance(picture, str | os.PathLike):
        return as_rgb(picture)
    path = Path(picture)
    if is_url(str(picture)) or path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES:
        raise ValueError(
            f"{printable(picture)}: expected an image file; for videos, folders, addresses and cameras use "
            "detector.stream(source)"
        )
    return read_image(path)


class _OneAtATime(Predictor):
    """A predictor for several threads: runtimes such as OpenVINO's refuse a second call while one is under way."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor.info, device=predictor.device, precision=predictor.precision, runtime="")
        self._inner, self._lock = predictor, threading.Lock()

    @contextlib.contextmanager
    def side_by_side(self) -> Iterator[Predictor]:
        """See Predictor; what is made for several threads needs no lock."""
        with self._inner.side_by_side() as shared:
            yield self if shared is self._inner else shared

    def predict(self, images: Values) -> tuple[Values, Values] | Values:
        """See Predictor."""
        with self._lock:
            return self._inner.predict(images)

    def candidates(self, images: Values, conf_thres: float) -> tuple[Values, Values] | Values:
        """See Predictor."""
        with self._lock:
            return self._inner.candidates(images, conf_thres)
