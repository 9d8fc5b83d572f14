"""What every writer starts from: a detector ready to be traced, and the specification of its file."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.detector import Detector
from models.fuse import fuse_
from models.info import ModelInfo
from models.layouts import OWN, Kind, Layout
from utils.boxes import xyxy_to_cxcywh


@dataclass(frozen=True)
class ExportSpec:
    """What the exported file should be.

    Args:
        info: of the original, with `image_size` the (height, width) to export for.
        batch_size: images per batch.
        dynamic: any batch size, and any height and width that the stride divides, instead of these only.
        half: weights stored in fp16, which halves the file; computation stays in fp32.
        layout: what it takes and gives.
        calibration: (K, 3, H, W) uint8 images that the ranges of int8 values are taken from; None for floats.
    """

    info: ModelInfo
    batch_size: int = 1
    dynamic: bool = False
    half: bool = False
    layout: Layout = OWN
    calibration: np.ndarray | None = None

    @property
    def precision(self) -> str:
        """In words, for the metadata and the output."""
        if self.calibration is not None:
            return "int8"
        return "fp32 (fp16 weights)" if self.half else "fp32"

    @property
    def metadata(self) -> dict[str, str]:
        """Key and text: what `ModelInfo.from_metadata` and `Layout.from_metadata` read, and the precision."""
        return {
            **self.info.to_metadata(**self.layout.to_metadata()),
            "batch": str(self.batch_size),
            "args": repr({"dynamic": self.dynamic, "nms": False}),
            "precision": self.precision,
        }

    def example(self) -> Tensor:
        """(B, 3, H, W) zeros of the size to export for."""
        return torch.zeros(self.batch_size, 3, *self.info.image_size)


class ExportNetwork(nn.Module):
    """A copy of a model, ready to be traced: images to what it predicts, batch norms merged into convolutions.

    Branches that only training needs are removed: a trace would keep their weights.

    Args:
        model: left as it is.
        kind: layout of what it gives; detections at the end of a graph are added later.
    """

    def __init__(self, model: Detector, kind: Kind = "own") -> None:
        super().__init__()
        self.kind = kind
        self.model = copy.deepcopy(model).cpu().float()
        fuse_(self.model)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        """(B, 3, H, W) float32 RGB in [0, 1] -> as `Detector.predict`, or one tensor of another layout."""
        predicted = self.model.predict(images)
        if self.kind == "own" or isinstance(predicted, Tensor):
            return predicted
        boxes, scores = predicted
        if self.kind == "yolo":
            return torch.cat((xyxy_to_cxcywh(boxes), scores), dim=2).transpose(1, 2)
        best, labels = scores.max(dim=2, keepdim=True)
        return torch.cat((boxes, best, labels.to(boxes)), dim=2)
