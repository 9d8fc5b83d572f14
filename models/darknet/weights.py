"""Darknet's weights files: .weights and .conv.N, read into a model and written from one (spec 5.1)."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.darknet.graph import DarknetGraph
from models.darknet.layers import WeightedShortcut
from models.darknet.trace import file_convolutions
from models.detector import Detector
from utils.config import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightsHeader:
    """What stands before the numbers.

    Args:
        seen: images that the weights were trained on.
        wide: `seen` takes 8 bytes, as in every file from version 0.2 on, else 4.
    """

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0
    wide: bool = True

    @property
    def size(self) -> int:
        """Bytes."""
        return 20 if self.wide else 16

    def pack(self) -> bytes:
        return struct.pack("<iii" + ("Q" if self.wide else "I"), self.major, self.minor, self.revision, self.seen)

    @classmethod
    def unpack(cls, data: bytes, *, wide: bool | None = None) -> WeightsHeader:
        """The header at the start of `data`, 20 bytes; `wide` None goes by the version."""
        major, minor, revision = struct.unpack("<iii", data[:12])
        if wide is None:
            wide = major * 10 + minor >= 2
        (seen,) = struct.unpack("<Q", data[12:20]) if wide else struct.unpack("<I", data[12:16])
        return cls(major, minor, revision, seen, wide)


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """A layer that has numbers in the file.

    Args:
        name: for messages: the layer's index, kind and line in a cfg, or its name in our model.
        tensors: in the file's order: bias (or beta, gamma, mean, variance), then the weights.
        level: the head's level when this is the convolution before a yolo layer.
    """

    name: str
    tensors: tuple[Tensor, ...]
    level: int | None = None

    @property
    def count(self) -> int:
        """Numbers in the file."""
        return sum(tensor.numel() for tensor in self.tensors)


@dataclass(frozen=True)
class Loaded:
    """What came out of a file.

    Args:
        layers: layers that have numbers in the file, and `of`: in the model.
        skipped: layers left as they were because the file is for other classes.
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
    levels = {f"head.convs.{level}": level for level in range(len(model.head.convs))}
    return [
        StoredLayer(f"'{name}' (convolution {index} in the file)", _tensors(module), levels.get(name))
        for index, (name, module) in enumerate(file_convolutions(model))
    ]


def count_floats(model: Detector | DarknetGraph) -> int:
    """Numbers in the model's darknet file, after the header."""
    return sum(layer.count for layer in stored_layers(model))


def _graph_layers(graph: DarknetGraph, head: nn.Module | None) -> Iterator[StoredLayer]:
    levels = {level.conv: number for number, level in enumerate(graph.levels)} if head is not None else {}
    for index, (section, module) in enumerate(zip(graph.sections[1:], graph.layers, strict=True)):
        level = levels.get(index)
        tensors = _tensors(module if level is None else head.convs[level])
        if tensors:
            yield StoredLayer(f"layer {index}, [{section.kind}] (line {section.line})", tensors, level)


def _tensors(module: nn.Module) -> tuple[Tensor, ...]:
    """The numbers of one layer in darknet's order; none for a layer that stores nothing."""
    if isinstance(module, WeightedShortcut):
        return () if module.weights is None else (module.weights,)
    if isinstance(module, nn.Conv2d):
        return module.bias, module.weight
    conv, norm = getattr(module, "conv", None), getattr(module, "norm", None)
    if conv is None:
        return ()
    if not isinstance(norm, nn.BatchNorm2d):
        return conv.bias, conv.weight
    return norm.bias, norm.weight, norm.running_mean, norm.running_var, conv.weight


def save_weights(model: Detector | DarknetGraph, path: Path, *, header: WeightsHeader | None = None) -> None:
    """Write a .weights file, whole or not at all.

    Args:
        header: by default that of the file the model was loaded from, else version 0.2.5 with nothing seen.
    Raises:
        ConfigError: a model that darknet's files cannot hold.
        OSError: the file cannot be written.
    """
    layers = stored_layers(model)
    header = header or (model.darknet_header if isinstance(model, Detector) else None) or WeightsHeader()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(header.pack())
            for layer in layers:
                for tensor in layer.tensors:
                    file.write(tensor.detach().float().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_weights_(model: Detector | DarknetGraph, path: Path, *, partial: bool = False) -> Loaded:
    """Copy a .weights or .conv.N file into a model.

    Args:
        partial: take a file that ends after any of the model's layers, and one of the same network with other classes,
            whose convolutions before the yolo layers are then left out.
    Raises:
        ConfigError: no such file, or one that does not fit: how many numbers were expected and found, and where.
    """
    layers = stored_layers(model)
    header, numbers = _read(path, sum(layer.count for layer in layers))
    sizes = [layer.count for layer in layers]
    if len(numbers) != sum(sizes):
        classes = classes_in_file(model, len(numbers)) if partial else None
        if classes is not None:
            sizes = [_with_classes(model, layer, classes) for layer in layers]
        elif not partial or len(numbers) not in np.cumsum(sizes):  # none is no part either
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
    """The number of classes with which this network has so many numbers in its file; None if there is none."""
    layers = stored_layers(model)
    heads = [layer for layer in layers if layer.level is not None]
    if not heads:
        return None
    rest = sum(layer.count for layer in layers) - sum(layer.count for layer in heads)
    anchors = [model.head.anchor_counts[layer.level] for layer in heads]
    widths = [count * (layer.tensors[1].shape[1] + 1) for layer, count in zip(heads, anchors, strict=True)]
    classes, remainder = divmod(floats - rest - 5 * sum(widths), sum(widths))
    return classes if remainder == 0 and classes >= 1 else None


def count_floats_in(path: Path) -> int:
    """Numbers in a darknet file, by its size and its header's version.

    Raises:
        ConfigError: no such file, or no darknet file.
    """
    header = _read_header(path)
    return (path.stat().st_size - header.size) // 4


def _with_classes(model: Detector, layer: StoredLayer, classes: int) -> int:
    if layer.level is None:
        return layer.count
    return model.head.anchor_counts[layer.level] * (5 + classes) * (layer.tensors[1].shape[1] + 1)


@torch.no_grad()
def _fill_(layer: StoredLayer, numbers: np.ndarray) -> None:
    start = 0
    for tensor in layer.tensors:
        part = numbers[start : start + tensor.numel()].astype(np.float32)
        tensor.copy_(torch.from_numpy(part).view_as(tensor))
        start += tensor.numel()


def _read_header(path: Path, *, wide: bool | None = None) -> WeightsHeader:
    try:
        with open(path, "rb") as file:
            data = file.read(20)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(data) < 20:
        raise ConfigError(
            f"{path}: expected a darknet weights file, found {len(data)} bytes; it was cut off or is empty"
        )
    header = WeightsHeader.unpack(data, wide=wide)
    if not 0 <= header.major <= 1000 or not 0 <= header.minor <= 1000:
        raise ConfigError(
            f"{path}: expected a darknet weights file, found version {header.major}.{header.minor} at its start; "
            "is it a file of another program?"
        )
    return header


def _read(path: Path, expected: int) -> tuple[WeightsHeader, np.ndarray]:
    """Header and numbers; of the two sizes a header may have, the one that leaves the expected numbers goes first."""
    header = _read_header(path)
    other = _read_header(path, wide=not header.wide)
    size = path.stat().st_size
    if size - other.size == 4 * expected:
        header = other
    if (size - header.size) % 4:
        raise ConfigError(
            f"{path}: expected a header of {header.size} bytes and numbers of 4 bytes, found {size:,} bytes; the file "
            "was cut off or changed"
        )
    if size == header.size:
        return header, np.empty(0, "<f4")
    return header, np.memmap(path, "<f4", "r", offset=header.size, shape=((size - header.size) // 4,))


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
