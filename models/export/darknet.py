"""Darknet: .weights, .cfg and .names, for darknet itself and OpenCV; or the first layers alone, .conv.N."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from models.darknet.cfg import MARK, cfg_text
from models.darknet.model_sections import count_stored
from models.darknet.weights import load_weights_, save_weights
from models.detector import Detector
from models.export.compare import ExportError
from models.export.formats import first_layers
from models.export.network import ExportSpec
from utils.config import ConfigError
from utils.files import write_lines


def write_darknet(model: Detector, path: Path, spec: ExportSpec) -> None:
    """Write `path` (.weights), and beside it the network (.cfg) and the class names (.names).

    Raises:
        ConfigError: the model has parts that darknet does not know.
    """
    info = spec.info
    nms = {"nms_kind": info.nms, "beta_nms": info.beta_nms} if info.nms != "default" else None
    text = cfg_text(model, image_size=info.image_size, resize=info.resize, nms=nms)
    write_lines(path.with_suffix(".names"), info.names)
    path.with_suffix(".cfg").write_text((MARK if info.clip else "") + text, encoding="utf-8")
    save_weights(model, path)


def write_first_layers(model: Detector, path: Path) -> str:
    """Write `path`, NAME.conv.N, read it again, and return the name of the last layer in it.

    Raises:
        ConfigError: another name, parts that darknet does not know, or fewer layers than N.
        ExportError: what was read again is not what the model holds.
    """
    layers = first_layers(path)
    if layers is None:
        raise ConfigError(f"{path}: expected a name like yolov4.conv.137")
    count = count_stored(model, layers)
    save_weights(model, path, count=count)
    again = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.fill_(torch.nan)
    loaded = load_weights_(again, path, partial=True)
    whole = model.state_dict()
    same = sum(torch.equal(tensor, whole[name]) for name, tensor in again.named_parameters())
    expected = sum(not tensor.isnan().any() for tensor in again.parameters())
    if loaded.layers != count or same != expected or same == 0:
        raise ExportError(f"{loaded.layers} of its {count} layers come back, {expected - same} tensors of them changed")
    return loaded.last
