"""Darknet: .weights, .cfg and .names, for darknet itself and OpenCV."""

from __future__ import annotations

from pathlib import Path

from models.darknet.cfg import cfg_text
from models.darknet.weights import save_weights
from models.detector import Detector
from models.export.network import ExportSpec


def write_darknet(model: Detector, path: Path, spec: ExportSpec) -> None:
    """Write `path` (.weights), and beside it the network (.cfg) and the class names (.names).

    Raises:
        ConfigError: the model has parts that darknet does not know.
    """
    info = spec.info
    text = cfg_text(model, image_size=info.image_size, resize=info.resize)
    path.with_suffix(".cfg").write_text(text, encoding="utf-8")
    path.with_suffix(".names").write_text("".join(f"{name}\n" for name in info.names), encoding="utf-8")
    save_weights(model, path)
