"""Darknet's weights files: .weights and .conv.N, read into a model and written from one.

See docs/networks.md, Weights files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from models.darknet.graph import DarknetGraph
from models.darknet.header import WeightsHeader, read_header, read_numbers
from models.darknet.trace import file_layers
from models.detector import Detector
from models.heads.anchor import AnchorHead
from models.heads.classify import ClassifyHead
from models.layers import ConvNormAct, WeightedShortcut
from utils.config import ConfigError
from utils.files import write_atomically

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """A layer that has numbers in the file.

    Args:
        name: for messages: the layer's index, kind and line in a cfg, or its name in our model.
        tensors: in the file's order: bias (or beta, gamma, mean, variance), then the weights.
        filters: of a head's convolution, filters for each class and filters beside them; None for other layers.
    """

    name: str
    tensors: tuple[Tensor, ...]
    filters: tuple[int, int] | None = None

    @property
    def count(self) -> int:
        """Numbers in the file."""
        return sum(tensor.numel() for tensor in self.tensors)

    def count_with(self, classes: int) -> int:
        """Numbers in the file of the same network for `classes` classes."""
        if self.filters is None:
            return self.count
        each, beside = self.filters
        return (each * classes + beside) * self.numbers_a_filter

    @property
    def numbers_a_filter(self) -> int:
        """Bias and weights of one filter of a head's convolution."""
        return self.tensors[1][0].numel() + 1


@dataclass(frozen=True)
class Loaded:
    """What was loaded from a file.

    Args:
        layers: number of layers loaded, of `of` layers with numbers in the model.
        skipped: layers left unchanged because the file is for other classes.
        last: the name of the last layer loaded.
    """

    header: WeightsHeader
    layers: int
    of: int
    skipped: int
    last: str


def stored_layers(model: Detector | DarknetGraph) -> list[StoredLayer]:
    """The layers of a model that have numbers in a darknet file, in the file's order.

    Raises:
        ConfigError: a model that darknet's files cannot hold.
    """
    if isinstance(model, DarknetGraph):
        return list(_graph_layers(model, None))
    if isinstance(model.backbone, DarknetGraph):
        return list(_graph_layers(model.backbone, model.head))
    filters = {f"head.{name}": filters for name, filters in _head_filters(model.head).items()}
    return [
        StoredLayer(f"'{name}' (layer {index} of those with weights)", _tensors(module), filters.get(name))
        for index, (name, module) in enumerate(file_layers(model))
    ]


def _head_filters(head: nn.Module) -> dict[str, tuple[int, int]]:
    """`StoredLayer.filters` of a head's convolutions, by their names in it."""
    if isinstance(head, ClassifyHead):
        return {"conv": (1, 0)}
    if not isinstance(head, AnchorHead):
        raise ConfigError(f"darknet's files cannot hold a model with a head of type {type(head).__name__}")
    return {f"convs.{level}": (anchors, 5 * anchors) for level, anchors in enumerate(head.anchor_counts)}


def _graph_layers(graph: DarknetGraph, head: nn.Module | None) -> Iterator[StoredLayer]:
    names = {level.conv: f"convs.{number}" for number, level in enumerate(graph.levels)}
    if graph.classifier is not None:
        names = {graph.classifier.conv: "conv"}
    for index, (section, module) in enumerate(zip(graph.sections[1:], graph.layers, strict=True)):
        filters = None
        if head is not None and index in names:
            module, filters = head.get_submodule(names[index]), _head_filters(head)[names[index]]
        tensors = _tensors(module)
        if tensors:
            yield StoredLayer(f"layer {index}, [{section.kind}] (line {section.line})", tensors, filters)


def _tensors(module: nn.Module) -> tuple[Tensor, ...]:
    """The numbers of one layer in darknet's order: vectors (C,), then the weights; none where it stores nothing."""
    tensors: list[Tensor | None] = []
    if isinstance(module, WeightedShortcut):
        tensors = [module.weights]
    elif isinstance(module, nn.Conv2d):
        tensors = [module.bias, module.weight]
    elif isinstance(module, ConvNormAct):
        conv, norm = module.conv, module.norm
        tensors = [conv.bias, conv.weight]
        if isinstance(norm, nn.BatchNorm2d):
            tensors = [norm.bias, norm.weight, norm.running_mean, norm.running_var, conv.weight]
    return tuple(tensor for tensor in tensors if tensor is not None)


def save_weights(
    model: Detector | DarknetGraph, path: Path, *, header: WeightsHeader | None = None, count: int | None = None
) -> None:
    """Write a .weights file, whole or not at all.

    Args:
        header: by default that of the file the model was loaded from, else version 0.2.5 with no images seen.
        count: how many of the layers with numbers to write, for a .conv.N file; None writes all.
    Raises:
        ConfigError: a model that darknet's files cannot hold.
        OSError: the file cannot be written.
    """
    layers = stored_layers(model)[:count]
    header = header or (model.darknet_header if isinstance(model, Detector) else None) or WeightsHeader()

    def write(file: BinaryIO) -> None:
        file.write(header.pack())
        for layer in layers:
            for tensor in layer.tensors:
                file.write(tensor.detach().float().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes())

    write_atomically(path, write, needed=header.size + 4 * sum(layer.count for layer in layers))


def load_weights_(model: Detector | DarknetGraph, path: Path, *, partial: bool = False) -> Loaded:
    """Copy a .weights or .conv.N file into a model.

    Args:
        partial: accept a file that ends after any of the model's layers, and one of the same network for other classes;
            its convolutions before the yolo layers are then skipped.
    Raises:
        ConfigError: no such file, or one that does not fit: how many numbers were expected and found, and where.
    """
    layers = stored_layers(model)
    header, numbers = read_numbers(path, sum(layer.count for layer in layers))
    sizes = [layer.count for layer in layers]
    if len(numbers) != sum(sizes):
        classes = classes_in_file(model, len(numbers)) if partial else None
        if classes is not None:
            sizes = [layer.count_with(classes) for layer in layers]
        elif not partial or len(numbers) not in np.cumsum(sizes):  # an empty file is no part either
            raise ConfigError(_misfit(path, layers, numbers))
    start, loaded, skipped = 0, [], 0
    for layer, size in zip(layers, sizes, strict=True):
        if start == len(numbers):
            break
        if size == layer.count:
            _fill_(layer, numbers[start : start + size])
            loaded.append(layer)
        else:
            skipped += 1
        start += size
    if len(loaded) == len(layers) and isinstance(model, Detector):
        model.darknet_header = header
    return Loaded(header, len(loaded), len(layers), skipped, loaded[-1].name)


def classes_in_file(model: Detector | DarknetGraph, floats: int) -> int | None:
    """The number of classes with which this network has `floats` numbers in its file; None if there is none."""
    layers = stored_layers(model)
    each = sum(layer.filters[0] * layer.numbers_a_filter for layer in layers if layer.filters is not None)
    if each == 0:
        return None
    classes, remainder = divmod(floats - sum(layer.count_with(0) for layer in layers), each)
    return classes if remainder == 0 and classes >= 1 else None


def count_floats_in(path: Path) -> int:
    """Numbers in a darknet file, by its size and its header's version.

    Raises:
        ConfigError: no such file, or no darknet file.
    """
    header = read_header(path)
    return (path.stat().st_size - header.size) // 4


@torch.no_grad()
def _fill_(layer: StoredLayer, numbers: np.ndarray) -> None:
    start = 0
    for tensor in layer.tensors:
        part = numbers[start : start + tensor.numel()].astype(np.float32)
        tensor.copy_(torch.from_numpy(part).view_as(tensor))
        start += tensor.numel()


def _misfit(path: Path, layers: Sequence[StoredLayer], numbers: np.ndarray) -> str:
    """Why a file does not fit: counts, and the first layer that cannot be right."""
    expected = sum(layer.count for layer in layers)
    message = f"{path}: expected {expected:,} numbers for this model, found {len(numbers):,}. "
    start = 0
    for layer in layers:
        end = start + layer.count
        if end > len(numbers):
            return message + f"The file ends in {layer.name}, {end - len(numbers):,} numbers early. {_REMEDY}"
        if len(layer.tensors) == 5:
            before = start + sum(tensor.numel() for tensor in layer.tensors[:3])
            variance = numbers[before : before + layer.tensors[3].numel()]
            if not (np.isfinite(variance).all() and (variance >= 0).all()):
                return message + f"It goes wrong in {layer.name} or just before: variances are negative. {_REMEDY}"
        start = end
    return message + f"{len(numbers) - expected:,} numbers are left after the last, {layers[-1].name}. {_REMEDY}"


_REMEDY = "Use the --cfg that belongs to these weights (same layers, filters and classes)"
