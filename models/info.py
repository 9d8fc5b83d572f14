"""What every predictor has: ModelInfo, which exported files contain too, and predict()."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from utils.config import ConfigError
from utils.saved import check_pairs, wrong_value
from utils.text import first_line, from_json, to_json
from utils.thresholds import Thresholds

if TYPE_CHECKING:
    from torch import Tensor

Values: TypeAlias = "np.ndarray | Tensor"
"""What predictors take and give."""

_KEYS = ("names", "category_ids", "image_size", "resize", "stride")
_OPTIONAL = ("nms", "beta_nms", "named", "task", "clip")
_OF_SCORES = ("thresholds", "temperature")
OWN_KEY = "cspdet"
"""Of an exported file's metadata, with a JSON object; the other keys are as other programs read them."""
CALLS = 4
"""Most threads that a predictor is made for (`Predictor.side_by_side`): each holds the activations of its pictures."""
OUTPUTS = {"detect": ("boxes", "scores"), "classify": ("probabilities",)}
"""Names of an exported model's outputs, by task."""


@dataclass(frozen=True)
class ModelInfo:
    """What a predictor needs besides the weights.

    Args:
        names: class names by label; category_ids: the data set's own id of each.
        image_size: (height, width) the model was trained or exported for.
        resize: how images get that size, as in `utils.boxes.plan_resize`.
        stride: both sides of an input are multiples of it.
        fixed_size: whether it takes inputs of `image_size` only.
        data: the data it was trained on, a data YAML or 'shapes'; None where the file does not say.
        nms, beta_nms: kind of non-maximum suppression, as in `postprocess`.
        named: whether the names come with the model; those of darknet weights may be a guess.
        task: what it predicts: boxes and scores, or the probabilities of one class for the image.
        clip: whether an evaluation clips boxes to the image; weights of darknet and YOLOX are evaluated on unclipped
            boxes.
        thresholds: scores of the best F1 on val, once `temperature` is applied; None where the file has none.
        temperature: by which the log-odds of the scores are divided at the end (`utils.metrics.calibration`).
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_size: tuple[int, int]
    resize: str
    stride: int
    fixed_size: bool = False
    data: str | None = None
    nms: str = "default"
    beta_nms: float = 0.6
    named: bool = True
    task: Literal["detect", "classify"] = "detect"
    clip: bool = True
    thresholds: Thresholds | None = None
    temperature: float = 1.0

    def of_scores(self) -> dict[str, Any]:
        """The keys 'thresholds' and 'temperature' of files, as far as they say anything."""
        values = {"thresholds": self.thresholds.to_plain()} if self.thresholds else {}
        return values if self.temperature == 1 else {**values, "temperature": self.temperature}

    def check_size(self, size: tuple[int, int], *, where: str) -> None:
        """Refuse a (height, width) that the model cannot take.

        Args:
            where: the option it came from.
        Raises:
            ConfigError: names a size that fits.
        """
        wanted = f"{size[0]} x {size[1]}"
        if self.fixed_size and size != self.image_size:
            raise ConfigError(
                f"{where}: {wanted} pixels, but this file was exported for {self.image_size[0]} x {self.image_size[1]} "
                f"alone; leave {where} out, or export again with that size or with --dynamic"
            )
        if min(size) < 1 or any(side % self.stride for side in size):
            nearest = " x ".join(str(nearest_multiple(side, self.stride)) for side in size)
            raise ConfigError(
                f"{where}: expected multiples of {self.stride}, the model's coarsest stride, found {wanted}; "
                f"the nearest is {nearest}"
            )

    def auto_thresholds(self, *, where: str) -> Thresholds:
        """The thresholds that the model's file has.

        Args:
            where: the option that asks for them.
        Raises:
            ConfigError: it has none; says how to get them.
        """
        if self.task == "classify":
            raise ConfigError(f"{where}: is for detectors, and this is a classifier; name a number")
        if self.thresholds is None:
            raise ConfigError(
                f"{where}: this file has no thresholds. A training stores them at its end, and in an older .pt 'python "
                "val.py --weights CHECKPOINT --data DATA --calibrate' does; what is exported afterwards has them too. "
                "Or name a number; 0.25 is the default"
            )
        return self.thresholds

    def to_metadata(self, **more: object) -> dict[str, str]:
        """Key and text, for the metadata of an exported file: all of ours as JSON under one key, and Ultralytics' keys.

        Args:
            more: what else the file should say of itself under our key (`models.layouts.Layout`).
        """
        ours = {key: getattr(self, key) for key in (*_KEYS, *_OPTIONAL)} | self.of_scores() | more
        return {
            OWN_KEY: to_json(ours, allow_nan=True),
            "names": repr(dict(enumerate(self.names))),
            "stride": str(self.stride),
            "task": self.task,
            "imgsz": str(list(self.image_size)),
            "channels": "3",
        }

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, str], *, shape: tuple[int | None, int | None], where: str
    ) -> ModelInfo:
        """What `to_metadata` wrote, or the same keys one by one, as files of version 0.1 have them.

        Args:
            shape: (height, width) of the file's input, None where it takes any.
        Raises:
            ConfigError: a key is missing or unreadable: not an export of ours.
        """
        try:
            found = own_metadata(metadata)
            values = {key: found[key] for key in (*_KEYS, *_OPTIONAL, *_OF_SCORES) if key in _KEYS or key in found}
            wrong = wrong_value(values)
            if wrong is not None:
                raise ValueError(wrong)
            names, ids, size, resize, stride = (values.pop(key) for key in _KEYS)
            values |= read_of_scores(values, len(names))
            height, width = (own or written for own, written in zip(shape, size, strict=True))
            info = cls(
                tuple(names), tuple(ids), (height, width), resize, stride, fixed_size=None not in shape, **values
            )
            if not names:
                raise ValueError("names: expected one or more, found none")
            check_pairs(info.names, info.category_ids, where="metadata")
            info.check_size(info.image_size, where="image_size")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{where}: not a detector exported by CSPDet, its metadata is missing or wrong "
                f"({type(error).__name__}: {first_line(error)}); export the checkpoint with export.py"
            ) from None
        return info


def own_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Our part of an exported file's metadata.

    Raises:
        KeyError, ValueError, RecursionError: it has none, or it is no JSON.
    """
    if OWN_KEY not in metadata:
        return {key: from_json(metadata[key]) for key in (*_KEYS, *_OPTIONAL) if key in _KEYS or key in metadata}
    values = from_json(metadata[OWN_KEY])
    if not isinstance(values, dict):
        raise ValueError(f"{OWN_KEY}: expected a JSON object")
    return values


def read_of_scores(values: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """What a file says of its scores, as arguments of ModelInfo; nothing where it is older.

    Raises:
        ConfigError: thresholds for another number of classes.
    """
    found = {key: values[key] for key in _OF_SCORES if key in values}
    if "thresholds" in found:
        found["thresholds"] = thresholds = Thresholds.from_plain(found["thresholds"])
        if len(thresholds.by_class) != classes:
            raise ConfigError(
                f"thresholds: expected one for each of {classes} classes, found {len(thresholds.by_class)}"
            )
    return found


def nearest_multiple(side: int, stride: int) -> int:
    """The multiple of `stride` nearest to `side` pixels, at least one stride."""
    return max(round(side / stride), 1) * stride


class Predictor(ABC):
    """A model ready to run, on any runtime.

    Args:
        info: classes, sizes and resize; each is an attribute here too.
        device: where the predictions lie, in PyTorch's words: 'cpu' for NumPy arrays.
        precision: 'fp32' or 'fp16'.
        runtime: what runs the model and where, for `description`, one line for the output.
    """

    def __init__(self, info: ModelInfo, *, device: str, precision: str, runtime: str) -> None:
        self.info = info
        self.names = info.names
        self.image_size = info.image_size
        self.resize = info.resize
        self.device = device
        self.precision = precision
        self.runtime = runtime
        self.description = f"{runtime}, {precision}, {len(info.names)} classes"
        self.calls = 1
        """How many threads may call it at once."""

    @abstractmethod
    def predict(self, images: Values) -> tuple[Values, Values] | Values:
        """(B, 3, H, W) RGB, uint8 or float in [0, 1], array or tensor -> what the model finds in them.

        Returns:
            Of a detector boxes (B, N, 4) xyxy pixels of these images, and scores (B, N, C) up to 1; of a classifier
            probabilities (B, C). NumPy arrays from ONNX Runtime and OpenVINO, which need no torch; tensors on `device`
            from models that torch runs. `postprocess` and `top_classes` take both.
        """

    def candidates(self, images: Values, conf_thres: float) -> tuple[Values, Values] | Values:
        """As `predict`, perhaps without boxes that have no score above `conf_thres` in any image, in the same order."""
        return self.predict(images)

    @contextmanager
    def side_by_side(self) -> Iterator[Predictor]:
        """The same model for `calls` threads at once, which share the threads that one call of this one computes with.

        On a CPU that gives more pictures a second, and each of them takes longer. Where it cannot be done, the
        predictor itself.
        """
        yield self

    def begin_thread(self) -> None:
        """Is called first in each of several threads that will call it at once."""
        return
