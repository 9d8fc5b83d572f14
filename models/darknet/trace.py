"""A model's steps in the order of a darknet file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from models.detector import Detector
from models.layers import SPP, ConvNormAct, Maxout, Shortcut, WeightedShortcut
from utils.config import ConfigError

LEAVES = (ConvNormAct, Shortcut, WeightedShortcut, SPP, Maxout)
"""Modules of ours that become one or more darknet sections; others are traced into their parts."""


def file_layers(model: Detector) -> list[tuple[str, nn.Module]]:
    """Every layer of a model of ours that has numbers in a darknet file, with its name, in the file's order.

    These are the convolutions (ConvNormAct or Conv2d) and the shortcuts with weights, in the order in which they run.
    Darknet writes a yolo layer, with the convolution before it, as soon as its input exists
    (docs/networks.md, PANet with SPP and PRN).

    Raises:
        ConfigError: a model that darknet's files cannot hold.
    """
    graph = trace(model)
    called = [(str(node.target), layer_of(model, node)) for node in in_file_order(graph)]
    layers = [(name, module) for name, module in called if module is not None and stores_numbers(module)]
    held = {id(tensor) for _, module in layers for tensor in module.parameters()}
    other = [name for name, tensor in model.named_parameters() if id(tensor) not in held]
    if other or len({name for name, _ in layers}) != len(layers):
        reason = f"'{other[0]}'" if other else "a convolution that is used twice"
        raise ConfigError(f"darknet's files cannot hold this model: they have no place for {reason}")
    return layers


def stores_numbers(module: nn.Module) -> bool:
    """Whether a layer of ours has numbers in a darknet file, which holds convolutions with norm or bias."""
    if isinstance(module, WeightedShortcut):
        return module.weights is not None
    return isinstance(module, ConvNormAct) or (isinstance(module, nn.Conv2d) and module.bias is not None)


class _Tracer(fx.Tracer):
    """Stops at the layers that become darknet sections, and leaves out what acts in training only."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if isinstance(m, (nn.Identity, nn.Dropout)) or m is getattr(self.root, "drop", None):
            return args[0]
        return super().call_module(m, forward, args, kwargs)


def trace(model: Detector) -> fx.Graph:
    """The steps of a detector down to layers of torch and `LEAVES`.

    Raises:
        ConfigError: they are not the same for every image.
    """
    try:
        return _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError, NameError, RuntimeError) as error:
        raise ConfigError(f"darknet's files cannot hold this model: its steps depend on the image ({error})") from None


def layer_of(model: nn.Module, node: fx.Node) -> nn.Module | None:
    """The layer that this step calls; None where it is another kind of step."""
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def is_prediction(node: fx.Node) -> bool:
    """Whether this step is one of the head's convolutions."""
    return node.op == "call_module" and str(node.target).startswith("head.convs.")


def in_file_order(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes in the order they run, each of the head's convolutions right after the node it reads."""
    for node in graph.nodes:
        if not is_prediction(node):
            yield node
            yield from (user for user in node.users if is_prediction(user))


class Shapes(fx.Interpreter):
    """Runs a graph and records the shape of every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n.name] = value.shape
        return value
