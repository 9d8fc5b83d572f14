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

from models.class_rows import copy_rows_
from models.darknet.graph import DarknetGraph
from models.darknet.header import WeightsHeader, read_header, read_numbers
from models.darknet.published import warn_of_masks
from models.darknet.trace import file_layers
from models.detector import Detector
from models.heads.anchor import AnchorHead
from models.heads.classify import ClassifyHead
from models.heads.region import RegionHead
from models.layers import ConvNormAct, WeightedShortcut
from models.names import ClassMatch
from utils.config import ConfigError
from utils.files import write_atomically
from utils.saved import LOWEST_VARIANCE, MOST_CLASSES

logger = logging.getLogger(__name__)

NORM_EPS = 1e-5
"""What norms add to variances in the networks of darknet's files."""


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

    def variances(self, numbers: np.ndarray) -> np.ndarray:
        """Those of batch normalization among the layer's numbers; none where it has no norm."""
        if len(self.tensors) != 5:
            return numbers[:0]
        before = sum(tensor.numel() for tensor in self.tensors[:3])
        return numbers[before : before + self.tensors[3].numel()]

    @property
    def numbers_a_filter(self) -> int:
        """Bias and weights of one filter of a head's convolution."""
        return self.tensors[1][0].numel() + 1


@dataclass(frozen=True)
class Loaded:
    """What was loaded from a file.

    Args:
        layers: number of layers loaded, of `of` layers with numbers in the model.
        skipped: layers for other classes, left unchanged or loaded in part.
        last: the name of the last layer loaded.
        rest: tensors of the model that the file did not give, or not whole.
    """

    header: WeightsHeader
    layers: int
    of: int
    skipped: int
    last: str
    rest: tuple[Tensor, ...] = ()


def stored_layers(model: Detector | DarknetGraph) -> list[StoredLayer]:
    """The layers of a model that have numbers in a darknet file, in the file's order.

    Raises:
        ConfigError: a model that darknet's files cannot hold.
    """
    if isinstance(model, DarknetGraph):
        layers = list(_graph_layers(model, None))
    elif isinstance(model.backbone, DarknetGraph):
        layers = list(_graph_layers(model.backbone, model.head))
    else:
        filters = {f"head.{name}": filters for name, filters in _head_filters(model.head).items()}
        layers = [
            StoredLayer(f"'{name}' (layer {index} of those with weights)", _tensors(module), filters.get(name))
            for index, (name, module) in enumerate(file_layers(model))
        ]
    others = {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)} - {NORM_EPS}
    if others:
        raise ConfigError(
            f"norm_eps: in darknet's files norms add {NORM_EPS} to variances, in this model {min(others)}; leave the "
            "key out of the model file"
        )
    return layers


def _head_filters(head: nn.Module) -> dict[str, tuple[int, int]]:
    """`StoredLayer.filters` of a head's convolutions, by their names in it."""
    if not isinstance(head, AnchorHead | ClassifyHead):
        raise ConfigError(f"darknet's files cannot hold a model with a head of type {type(head).__name__}")
    return {name: (groups, groups * before) for name, (groups, before) in head.class_layers().items()}


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


def load_weights_(
    model: Detector | DarknetGraph, path: Path, *, partial: bool = False, classes: ClassMatch | None = None
) -> Loaded:
    """Copy a .weights or .conv.N file into a model.

    Args:
        partial: accept a file that ends after any of the model's layers, and one of the same network for other classes;
            its convolutions before the yolo layers are then skipped.
        classes: which classes of the file the model's are: its head's convolutions are copied row by row.
    Raises:
        ConfigError: no such file; one that does not fit: how many numbers were expected and found, and where; or one
            with numbers that no training gives, with the layer's name.
    """
    layers = stored_layers(model)
    header, numbers, sizes = _choose_reading(model, layers, path, partial=partial)
    by_row = classes is not None and not classes.is_identity
    start, loaded, skipped = 0, [], 0
    for layer, size in zip(layers, sizes, strict=True):
        if start == len(numbers):
            break
        part = numbers[start : start + size]
        start += size
        if size == layer.count and not (layer.filters and by_row):
            check_numbers(path, layer, part)
            _fill_(layer, part)
            loaded.append(layer)
            continue
        skipped += 1
        if classes is not None and size == layer.count_with(classes.of):
            check_numbers(path, layer, part)
            _fill_rows_(layer, part, classes)
    rest = tuple(tensor for layer in layers if layer not in loaded for tensor in layer.tensors)
    if len(loaded) + skipped == len(layers) and isinstance(model, Detector) and isinstance(model.head, RegionHead):
        model.head.seen.fill_(min(header.seen, 2**62))
    if len(loaded) == len(layers) and isinstance(model, Detector):
        model.darknet_header = header
        warn_of_masks(model, path, header, len(numbers))
    return Loaded(header, len(loaded), len(layers), skipped, loaded[-1].name, rest)


def classes_in_file(model: Detector | DarknetGraph, floats: int) -> int | None:
    """The number of classes with which this network has `floats` numbers in its file; None if there is none."""
    layers = stored_layers(model)
    each = sum(layer.filters[0] * layer.numbers_a_filter for layer in layers if layer.filters is not None)
    if each == 0:
        return None
    classes, remainder = divmod(floats - sum(layer.count_with(0) for layer in layers), each)
    return classes if remainder == 0 and 1 <= classes <= MOST_CLASSES else None


def count_floats_in(path: Path) -> int:
    """Numbers in a darknet file, by its size and its header's version.

    Raises:
        ConfigError: no such file, or no darknet file.
    """
    header = read_header(path)
    return (path.stat().st_size - header.size) // 4


def check_numbers(path: Path, layer: StoredLayer, numbers: np.ndarray) -> None:
    """Refuse a layer that would make every output NaN, or that holds the numbers of another one.

    Raises:
        ConfigError: NaN, infinity, or a variance below 0.
    """
    broken = int(np.count_nonzero(~np.isfinite(numbers)))
    if broken:
        raise ConfigError(
            f"{path}: {layer.name}: {broken:,} of its {len(numbers):,} numbers are NaN or infinite; the file is "
            "damaged, or its training had failed: use another one"
        )
    lowest = float(layer.variances(numbers).min(initial=0))
    if lowest < LOWEST_VARIANCE:
        raise ConfigError(
            f"{path}: {layer.name}: expected variances from 0 on, found {lowest:g}; the numbers are those of another "
            f"layer. {_REMEDY}"
        )


def _choose_reading(
    model: Detector | DarknetGraph, layers: Sequence[StoredLayer], path: Path, *, partial: bool
) -> tuple[WeightsHeader, np.ndarray, list[int]]:
    """Header, numbers, and how many of them each layer takes.

    The version decides how long the header is. The other length counts only if the numbers do not fit as promised,
    and their variances, which are never negative, say that everything is shifted by one.

    Raises:
        ConfigError: the file does not fit.
    """
    (header, numbers), other = read_numbers(path)
    sizes = _sizes(model, layers, len(numbers), partial=partial)
    if sizes is not None:
        return header, numbers, sizes
    shifted = _sizes(model, layers, len(other[1]), partial=partial)
    if shifted is None:
        raise ConfigError(_misfit(path, layers, numbers))
    if _are_sensible(layers, shifted, other[1]) and not _are_sensible(layers, None, numbers):
        return *other, shifted
    lacks = len(other[1]) > len(numbers)
    raise ConfigError(
        f"{path}: expected {sum(shifted):,} numbers for this model, found {len(numbers):,}: the header of "
        f"version {header.major}.{header.minor} has {header.size} bytes, so the file "
        f"{'lacks 4 bytes' if lacks else 'has 4 bytes too many'}; download or copy it again"
    )


def _sizes(
    model: Detector | DarknetGraph, layers: Sequence[StoredLayer], count: int, *, partial: bool
) -> list[int] | None:
    """How many of `count` numbers each layer takes; None where they do not fit."""
    sizes = [layer.count for layer in layers]
    if count == sum(sizes):
        return sizes
    classes = classes_in_file(model, count) if partial else None
    if classes is not None:
        return [layer.count_with(classes) for layer in layers]
    return sizes if partial and count in np.cumsum(sizes) else None  # an empty file is no part either


def _are_sensible(layers: Sequence[StoredLayer], sizes: Sequence[int] | None, numbers: np.ndarray) -> bool:
    """Whether all variances are finite and not negative, as far as the numbers go; `sizes` None are the layers' own."""
    start = 0
    for layer, size in zip(layers, sizes or [layer.count for layer in layers], strict=True):
        part = numbers[start : start + size]
        if size == layer.count == len(part) and not _fits(layer.variances(part)):
            return False
        start += size
    return True


def _fits(variances: np.ndarray) -> bool:
    return bool(np.isfinite(variances).all() and (variances >= LOWEST_VARIANCE).all())


@torch.no_grad()
def _fill_(layer: StoredLayer, numbers: np.ndarray) -> None:
    start = 0
    for tensor in layer.tensors:
        part = numbers[start : start + tensor.numel()].astype(np.float32)
        tensor.copy_(torch.from_numpy(part).view_as(tensor))
        start += tensor.numel()


def _fill_rows_(layer: StoredLayer, numbers: np.ndarray, classes: ClassMatch) -> None:
    """The rows of a head's convolution that the file has, from its numbers for `classes.of` classes."""
    assert layer.filters is not None
    (groups, beside), rows = layer.filters, layer.filters[0] * classes.of + layer.filters[1]
    bias, weights = torch.from_numpy(numbers.astype(np.float32)).split((rows, len(numbers) - rows))
    for tensor, source in zip(layer.tensors, (bias, weights.view(rows, *layer.tensors[1].shape[1:])), strict=True):
        copy_rows_(tensor, source, classes, groups=groups, before=beside // groups)


def _misfit(path: Path, layers: Sequence[StoredLayer], numbers: np.ndarray) -> str:
    """Why a file does not fit: counts, and the first layer that cannot be right."""
    expected = sum(layer.count for layer in layers)
    message = f"{path}: expected {expected:,} numbers for this model, found {len(numbers):,}. "
    start = 0
    for layer in layers:
        end = start + layer.count
        if end > len(numbers):
            return message + f"The file ends in {layer.name}, {end - len(numbers):,} numbers early. {_REMEDY}"
        if not _fits(layer.variances(numbers[start:end])):
            return message + f"It goes wrong in {layer.name} or just before: variances are negative. {_REMEDY}"
        start = end
    return message + f"{len(numbers) - expected:,} numbers are left after the last, {layers[-1].name}. {_REMEDY}"


_REMEDY = "Use the --cfg that belongs to these weights (same layers, filters and classes)"
