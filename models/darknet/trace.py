"""A detector's steps, as darknet would list them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from models.detector import Detector
from models.layers import SPP, ConvNormAct, Shortcut
from utils.config import ConfigError

LEAVES = (ConvNormAct, Shortcut, SPP)
"""Modules of ours that have darknet sections of their own; others are followed into their parts."""


def file_convolutions(model: Detector) -> list[tuple[str, nn.Module]]:
    """Every convolution (ConvNormAct or Conv2d) of a model of ours, with its name, in the order of a darknet file.

    That is the order in which they run, and darknet writes a yolo layer, with the convolution before it, as soon as the
    map is there that it reads (spec 3.1 and 3.2).

    Raises:
        ConfigError: a model that darknet's files cannot hold.
    """
    graph = trace(model)
    found = [(node.target, model.get_submodule(node.target)) for node in in_file_order(graph) if calls_module(node)]
    convolutions = [(name, module) for name, module in found if isinstance(module, (ConvNormAct, nn.Conv2d))]
    whole = [module for _, module in convolutions if isinstance(module, ConvNormAct) or module.bias is not None]
    held = {id(tensor) for module in whole for tensor in module.parameters()}
    other = [name for name, tensor in model.named_parameters() if id(tensor) not in held]
    if other or len({name for name, _ in convolutions}) != len(convolutions):
        what = other[0] if other else "a convolution that is used twice"
        raise ConfigError(f"darknet's files cannot hold this model: they have no place for {what}")
    return convolutions


class _Tracer(fx.Tracer):
    """Stops at the layers that have a darknet section of their own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


def trace(model: Detector) -> fx.Graph:
    """The steps of a detector down to layers of torch and `LEAVES`.

    Raises:
        ConfigError: they are not the same for every image.
    """
    try:
        return _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise ConfigError(f"darknet's files cannot hold this model: its steps depend on the image ({error})") from None


def calls_module(node: fx.Node) -> bool:
    """Whether this step is a layer."""
    return node.op == "call_module"


def is_prediction(node: fx.Node) -> bool:
    """Whether this step is one of the head's convolutions."""
    return calls_module(node) and str(node.target).startswith("head.convs.")


def in_file_order(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes in the order they run, each of the head's convolutions right after the node it reads."""
    for node in graph.nodes:
        if not is_prediction(node):
            yield node
            yield from (user for user in node.users if is_prediction(user))


class Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n.name] = value.shape
        return value
