"""What a model costs wherever it runs: parameters, operations and memory, without computing anything.

Operations are counted as darknet counts its BFLOPs (docs/networks.md, BFLOPs), memory tensor by tensor. Shapes are
enough for both, so the models run on the device 'meta'.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.build import build_model
from models.config import ModelConfig
from models.darknet.cfg import declared_classes
from models.detector import Detector
from models.layers import SPP, Maxout, Shortcut, WeightedShortcut

LayerCounter = Callable[[Any, Tensor, Tensor], int]
"""What one layer counts: (layer, its first input, its output) -> operations."""


@dataclass(frozen=True)
class Costs:
    """The size of a model, and what one pass takes.

    Args:
        params: trainable numbers; weights: those of convolutions alone, without biases and norms, as the CSPNet README
            counts; floats: all numbers that a darknet file holds, as the PRN README counts.
        bflops: billions of operations for one image, as darknet counts them.
        cio: values that convolutions read and write for one image, the paper's measure of memory traffic.
        activations_mb: MB (1e6 bytes) of the images, and of the most that a pass holds beside weights and images at
            once; memory_mb: the same with the weights.
    """

    params: int
    weights: int
    floats: int
    bflops: float
    cio: int
    activations_mb: float
    memory_mb: float


def count_costs(config: ModelConfig, *, num_classes: int | None = None, batch_size: int = 1) -> Costs:
    """The costs of a model at its configuration's image size.

    Args:
        num_classes: see `classes_of`.
        batch_size: images in a pass, for the memory.
    Raises:
        ConfigError: wrong keys or values, or an image size that does not fit.
    """
    with torch.device("meta"):
        model = build_model(config, num_classes or classes_of(config)).eval()
        images = torch.zeros(batch_size, 3, *config.size)
    held = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    memory = forward_bytes(model, images)
    return Costs(
        params=sum(p.numel() for p in model.parameters() if p.requires_grad),
        weights=count_weights(model),
        floats=count_numbers(model),
        bflops=count_bflops(model, config.size),
        cio=count_conv_values(model, config.size),
        activations_mb=(memory - held) / 1e6,
        memory_mb=memory / 1e6,
    )


def classes_of(config: ModelConfig) -> int:
    """The classes to build a model for: those its .cfg names, else COCO's 80 or, of a classifier, ImageNet's 1000."""
    declared = declared_classes(config.backbone)
    return declared or (1000 if config.head.get("type") == "classify" else 80)


def count_weights(model: nn.Module) -> int:
    """Numbers in the kernels of the convolutions and linear layers."""
    layers = (module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
    return sum(layer.weight.numel() for layer in layers)


def count_numbers(model: nn.Module) -> int:
    """Parameters and running statistics of the norms: what a darknet file of the model holds after its header."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    statistics = [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var) if tensor is not None]
    return sum(tensor.numel() for tensor in (*model.parameters(), *statistics))


def count_bflops(model: nn.Module, size: tuple[int, int]) -> float:
    """Billions of operations for one image of `size` (height, width).

    Convolutions and linear layers count two per multiply-add, pools their window per output, shortcuts one per output;
    bias, batch normalisation, activation, global pools and upsampling count nothing.
    """
    return sum(_each_layer(model, size, _OPERATIONS)) / 1e9


def count_conv_values(model: nn.Module, size: tuple[int, int]) -> int:
    """Values that the convolutions read and write for one image: the CIO of HarDNet and of the CSPNet paper."""
    return sum(_each_layer(model, size, {nn.Conv2d: lambda module, x, output: x.numel() + output.numel()}))


@torch.inference_mode()
def forward_bytes(model: Detector, images: Tensor) -> int:
    """Bytes of the weights, of the images, and of the most that `model.predict(images)` holds beside them at once.

    Args:
        images: (B, 3, H, W), on any device; on 'meta' nothing is computed, and the number is the same.
    """
    tensors = (*model.parameters(), *model.buffers(), images)
    fixed = {_storage_id(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
    with TensorMemoryCounter(tensors) as memory:
        model.predict(images)
    return sum(fixed.values()) + memory.peak


class TensorMemoryCounter(TorchDispatchMode):
    """Counts the bytes of every tensor made inside it, from the operation that makes it until nothing refers to it.

    Tensors that share storage (views, in-place results) count once. What an operation needs for itself alone, such as
    the scratch space of a convolution, is not seen.

    Args:
        known: tensors from outside, which do not count where they come out of an operation again, as views.
    Attributes:
        peak: the most bytes that were held at once.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.peak = self._held = 0
        self._alive = {_storage_id(tensor) for tensor in known}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._hold(value)
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _storage_id(tensor)
        size = storage.nbytes()
        if key not in self._alive:
            self._alive.add(key)
            self._held += size
            self.peak = max(self.peak, self._held)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._held -= size


def _storage_id(tensor: Tensor) -> int:
    """A number for the tensor's storage, which views share."""
    return tensor.untyped_storage()._cdata


def _each_layer(model: nn.Module, size: tuple[int, int], counters: Mapping[type[nn.Module], LayerCounter]) -> list[int]:
    """What the counters say of each layer of their types, for one image; the model is left alone."""
    twin = copy.deepcopy(model).to("meta").eval()
    counts: list[int] = []

    for module in twin.modules():
        counter = next((counters[kind] for kind in type(module).__mro__ if kind in counters), None)
        if counter is not None:

            def count(
                layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, counter: LayerCounter = counter
            ) -> None:
                counts.append(counter(layer, inputs[0], output))

            module.register_forward_hook(count)
    with torch.no_grad():
        twin(torch.zeros(1, 3, *size, device="meta"))
    return counts


def _multiply_adds(layer: nn.Conv2d | nn.Linear, x: Tensor, output: Tensor) -> int:
    return 2 * layer.weight[0].numel() * output.numel()


def _pool(layer: nn.MaxPool2d | nn.AvgPool2d, x: Tensor, output: Tensor) -> int:
    size = layer.kernel_size
    height, width = size if isinstance(size, tuple) else (size, size)
    return height * width * output.numel()


_OPERATIONS: dict[type[nn.Module], LayerCounter] = {
    nn.Conv2d: _multiply_adds,
    nn.Linear: _multiply_adds,
    nn.MaxPool2d: _pool,
    nn.AvgPool2d: _pool,
    SPP: lambda layer, x, output: sum(kernel**2 for kernel in layer.kernels) * x.numel(),
    Shortcut: lambda layer, x, output: output.numel(),
    WeightedShortcut: lambda layer, x, output: len(layer.source_channels) * output.numel(),
    Maxout: lambda layer, x, output: layer.in_channels * output[:, 0].numel(),
}
