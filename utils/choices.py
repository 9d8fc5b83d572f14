"""Words that options, recipes and files have in common; importing them costs nothing."""

from __future__ import annotations

from typing import Literal, get_args

Resize = Literal["letterbox", "corner", "stretch", "crop"]
RESIZES = get_args(Resize)
"""How images get the size of the network input; see `utils.boxes.plan_resize`."""
DETECTOR_RESIZES = RESIZES[:-1]
PADDED = RESIZES[:2]
"""Those that keep the aspect of the whole image."""

NMS_KINDS = ("default", "greedynms", "diounms", "vote", "none")
"""Kinds of non-maximum suppression; see `models.postprocess`."""

BACKENDS = ("pycocotools", "faster")
"""What counts a detector's figures, the default first."""

RUNTIMES = ("auto", "torch", "onnx", "openvino")
"""What may run a model; 'auto' is the fastest that is installed."""
