"""What an exported file takes and gives: the layouts of its outputs, and how each is read back. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from models.info import OUTPUTS, own_metadata
from utils.boxes import cxcywh_to_xyxy

Kind = Literal["own", "yolo", "deepstream"]
LAYOUTS: tuple[Kind, ...] = get_args(Kind)
INPUT = "images"
PICTURE = "picture"
FINAL = ("boxes", "scores", "classes", "count")
"""Outputs of a file that ends in detections."""
_ALONE = {"yolo": ("output0",), "deepstream": ("output",)}


@dataclass(frozen=True)
class Final:
    """The thresholds inside a file that ends in detections; `ModelInfo` has the kind of suppression."""

    conf_thres: float = 0.25
    iou_thres: float = 0.45
    max_det: int = 300

    @property
    def plausible(self) -> bool:
        """Whether the values, which may come from a file, can be thresholds."""
        numbers = all(type(each) in (int, float) and 0 <= each <= 1 for each in (self.conf_thres, self.iou_thres))
        return numbers and type(self.max_det) is int and self.max_det >= 1


@dataclass(frozen=True)
class Layout:
    """The contract of a file (docs/deploy.md).

    Args:
        kind: of the outputs. 'own' has boxes (B, N, 4) and scores (B, N, C), or of a classifier probabilities (B, C);
            'yolo' has centres, sizes and scores as one (B, 4 + C, N); 'deepstream' has corners, the best score and its
            class as one (B, N, 6).
        final: thresholds of a file that ends in detections: boxes (B, M, 4), scores (B, M), classes (B, M) and count
            (B,), best first, zeros after the last. For 'own' alone.
        picture: whether the input is one picture of any size, (1, H, W, 3) uint8 RGB, and boxes are in its pixels.
    """

    kind: Kind = "own"
    final: Final | None = None
    picture: bool = False

    @property
    def note(self) -> str:
        """What a user should know of a file that ends in detections, for the description of its runtime."""
        return f", detections above {self.final.conf_thres:g} alone" if self.final else ""

    @property
    def input(self) -> str:
        """Name of the input."""
        return PICTURE if self.picture else INPUT

    def outputs(self, task: str) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        return FINAL if self.final else _ALONE.get(self.kind, OUTPUTS[task])

    def to_metadata(self) -> dict[str, object]:
        """What `from_metadata` reads; nothing where all is as in files that do not say."""
        final = asdict(self.final) if self.final else None
        plain = self == OWN
        return {} if plain else {"layout": self.kind, "final": final, "picture": self.picture}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Layout:
        """The layout of a file of ours.

        Raises:
            KeyError, TypeError, ValueError, RecursionError: another program's file, or a wrong value.
        """
        values = own_metadata(metadata)
        kind, final, picture = values.get("layout", "own"), values.get("final"), values.get("picture", False)
        if kind not in LAYOUTS or not isinstance(picture, bool):
            raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, and picture true or false")
        thresholds = None if final is None else Final(**final)
        if thresholds and not thresholds.plausible:
            raise ValueError("final: expected thresholds from 0 to 1, and max_det from 1")
        return cls(kind, thresholds, picture)

    def candidates(self, outputs: Sequence[np.ndarray], classes: int) -> tuple[np.ndarray, ...]:
        """What the file gave, as `Predictor.predict` gives it.

        Args:
            outputs: in the order of `outputs`.
            classes: C.
        """
        if self.final:
            boxes, scores, labels = (np.asarray(each) for each in outputs[:3])
            return boxes, _one_hot(scores, labels, classes)
        if self.kind == "yolo":
            (rows,) = (np.asarray(each).transpose(0, 2, 1) for each in outputs)
            return cxcywh_to_xyxy(rows[..., :4]), rows[..., 4:]
        if self.kind == "deepstream":
            (rows,) = map(np.asarray, outputs)
            return rows[..., :4], _one_hot(rows[..., 4], rows[..., 5].astype(np.int64), classes)
        return tuple(outputs)

    def classes(self, shapes: Mapping[str, Sequence[Any]], task: str) -> int | None:
        """How many classes the shapes of the outputs show; None where they do not.

        Args:
            shapes: of the outputs, by name; sides that are not fixed are no int.
        """
        if self.final or self.kind == "deepstream":
            return None
        shape = shapes.get(self.outputs(task)[-1], [None, None])
        side = shape[1 if self.kind == "yolo" else -1]
        return side - 4 * (self.kind == "yolo") if isinstance(side, int) else None


OWN = Layout()
"""Candidates of images of the network's size, as files that say nothing of a layout have them."""


def _one_hot(scores: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(B, N) scores and classes -> (B, N, C), 0 elsewhere."""
    spread = np.zeros((*scores.shape, classes), np.float32)
    np.put_along_axis(spread, labels[..., None], scores[..., None], axis=-1)
    return spread


def as_pictures(images: np.ndarray) -> np.ndarray:
    """(B, 3, H, W) uint8, or float in [0, 1] -> (B, H, W, 3) uint8."""
    values = images if images.dtype == np.uint8 else np.rint(images * 255).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1))
