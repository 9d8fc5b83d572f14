"""Words that options, recipes and files have in common; importing them costs nothing."""

from __future__ import annotations

NMS_KINDS = ("default", "greedynms", "diounms", "vote", "none")
"""Kinds of non-maximum suppression; see `models.postprocess`."""

BACKENDS = ("pycocotools", "faster")
"""What counts a detector's figures, the default first."""

RUNTIMES = ("auto", "torch", "onnx", "openvino")
"""What may run a model; 'auto' is the fastest that is installed."""
