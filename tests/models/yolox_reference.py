"""YOLOX as its authors name and compute it, written anew as functions of a state_dict; models/ has nothing of it.

github.com/Megvii-BaseDetection/YOLOX, commit 6ddff48: yolox/models.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
BASES = ("backbone.backbone.dark2", "backbone.backbone.dark3", "backbone.backbone.dark4", "backbone.backbone.dark5")


def random_weights(
    *, base: int = 16, depth: int = 1, depthwise: bool = True, classes: int = 80, seed: int = 0
) -> Weights:
    """A state_dict with the authors' names, the same numbers on every machine.

    Args:
        base: channels of the stem, 16 of nano and 64 of l.
        depth: blocks of the first stage, 1 of nano and 3 of l.
    """
    rng = np.random.RandomState(0)
    weights = {}
    for name, shape in sorted(_shapes(base, depth, depthwise, classes)):
        values = rng.standard_normal(shape) if shape else np.zeros(())
        if name.endswith("running_var"):
            values = np.abs(values) + 0.5
        elif name.endswith("bn.weight"):
            values = 1 + 0.1 * values
        elif name.endswith("weight"):
            values = (
                values / np.sqrt(np.prod(shape[1:])) / (255 if "stem.conv.conv" in name and "head" not in name else 1)
            )
        else:
            values = 0.2 * values
        weights[name] = torch.tensor(values, dtype=torch.float32 if shape else torch.int64)
    return weights


def raw_maps(weights: Weights, images: Tensor) -> list[Tensor]:
    """(B, 3, H, W) BGR in 0..255 -> (B, 5 + C, h, w) a level, no sigmoid and no decode."""
    x = torch.cat([images[..., row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))], dim=1)
    x = _conv(weights, "backbone.backbone.stem.conv", x)
    maps = []
    for name in BASES:
        x = _unit(weights, f"{name}.0", x, 2)
        if name == BASES[-1]:
            x = _conv(weights, f"{name}.1.conv1", x)
            x = torch.cat([x, *(F.max_pool2d(x, size, 1, size // 2) for size in (5, 9, 13))], dim=1)
            x = _csp(weights, f"{name}.2", _conv(weights, f"{name}.1.conv2", x), shortcut=False)
        else:
            x = _csp(weights, f"{name}.1", x, shortcut=True)
        maps.append(x)
    _, fine, middle, coarse = maps
    narrow = _conv(weights, "backbone.lateral_conv0", coarse)
    down = _csp(weights, "backbone.C3_p4", torch.cat((_twice(narrow), middle), 1))
    narrower = _conv(weights, "backbone.reduce_conv1", down)
    out = [_csp(weights, "backbone.C3_p3", torch.cat((_twice(narrower), fine), 1))]
    for unit, csp, skip in (("bu_conv2", "C3_n3", narrower), ("bu_conv1", "C3_n4", narrow)):
        up = _unit(weights, f"backbone.{unit}", out[-1], 2)
        out.append(_csp(weights, f"backbone.{csp}", torch.cat((up, skip), 1)))
    return [_predictions(weights, level, x) for level, x in enumerate(out)]


def _predictions(weights: Weights, level: int, x: Tensor) -> Tensor:
    x = _conv(weights, f"head.stems.{level}", x)
    features = {}
    for branch in ("reg", "cls"):
        inner = _unit(weights, f"head.{branch}_convs.{level}.0", x)
        features[branch] = _unit(weights, f"head.{branch}_convs.{level}.1", inner)
    parts = [
        F.conv2d(features[of], weights[f"head.{name}_preds.{level}.weight"], weights[f"head.{name}_preds.{level}.bias"])
        for name, of in (("reg", "reg"), ("obj", "reg"), ("cls", "cls"))
    ]
    return torch.cat(parts, dim=1)


def _twice(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def _conv(weights: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    kernel = weights[f"{name}.conv.weight"]
    groups = x.shape[1] // kernel.shape[1]
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
    mean, variance, scale, shift = (
        weights[f"{name}.bn.{each}"] for each in ("running_mean", "running_var", "weight", "bias")
    )
    return F.silu(F.batch_norm(x, mean, variance, scale, shift, eps=1e-3))


def _unit(weights: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """A convolution, or in nano a depthwise and a 1x1 one."""
    if f"{name}.conv.weight" in weights:
        return _conv(weights, name, x, stride)
    return _conv(weights, f"{name}.pconv", _conv(weights, f"{name}.dconv", x, stride))


def _csp(weights: Weights, name: str, x: Tensor, *, shortcut: bool = False) -> Tensor:
    inner, bypass, block = _conv(weights, f"{name}.conv1", x), _conv(weights, f"{name}.conv2", x), 0
    while f"{name}.m.{block}.conv1.conv.weight" in weights:
        new = _unit(weights, f"{name}.m.{block}.conv2", _conv(weights, f"{name}.m.{block}.conv1", inner))
        inner, block = inner + new if shortcut else new, block + 1
    return _conv(weights, f"{name}.conv3", torch.cat((inner, bypass), dim=1))


Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _shapes(base: int, depth: int, depthwise: bool, classes: int) -> Shapes:
    unit = _separable_shapes if depthwise else functools.partial(_conv_shapes, kernel=3)
    fine, middle, coarse = 4 * base, 8 * base, 16 * base
    yield from _conv_shapes("backbone.backbone.stem.conv", 12, base, kernel=3)
    for stage, name in enumerate(BASES):
        width, blocks = base * 2 ** (stage + 1), depth if stage in (0, 3) else 3 * depth
        yield from unit(f"{name}.0", width // 2, width)
        yield from _csp_shapes(f"{name}.{1 + (stage == 3)}", width, width, blocks, unit)
    yield from _conv_shapes(f"{BASES[-1]}.1.conv1", coarse, middle)
    yield from _conv_shapes(f"{BASES[-1]}.1.conv2", 2 * coarse, coarse)
    yield from _conv_shapes("backbone.lateral_conv0", coarse, middle)
    yield from _conv_shapes("backbone.reduce_conv1", middle, fine)
    yield from unit("backbone.bu_conv2", fine, fine)
    yield from unit("backbone.bu_conv1", middle, middle)
    for name, before, after in (
        ("C3_p4", coarse, middle),
        ("C3_p3", middle, fine),
        ("C3_n3", middle, middle),
        ("C3_n4", coarse, coarse),
    ):
        yield from _csp_shapes(f"backbone.{name}", before, after, depth, unit)
    for level, width in enumerate((fine, middle, coarse)):
        yield from _conv_shapes(f"head.stems.{level}", width, fine)
        for branch, outputs in (("cls", classes), ("reg", 4), ("obj", 1)):
            yield f"head.{branch}_preds.{level}.weight", (outputs, fine, 1, 1)
            yield f"head.{branch}_preds.{level}.bias", (outputs,)
        for branch, place in itertools.product(("cls", "reg"), range(2)):
            yield from unit(f"head.{branch}_convs.{level}.{place}", fine, fine)


def _conv_shapes(name: str, before: int, after: int, *, kernel: int = 1) -> Shapes:
    yield f"{name}.conv.weight", (after, before, kernel, kernel)
    yield f"{name}.bn.num_batches_tracked", ()
    for each in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.bn.{each}", (after,)


def _separable_shapes(name: str, before: int, after: int) -> Shapes:
    yield from _conv_shapes(f"{name}.dconv", 1, before, kernel=3)
    yield from _conv_shapes(f"{name}.pconv", before, after)


def _csp_shapes(name: str, before: int, after: int, blocks: int, unit: Callable[[str, int, int], Shapes]) -> Shapes:
    half = after // 2
    yield from _conv_shapes(f"{name}.conv1", before, half)
    yield from _conv_shapes(f"{name}.conv2", before, half)
    yield from _conv_shapes(f"{name}.conv3", after, after)
    for block in range(blocks):
        yield from _conv_shapes(f"{name}.m.{block}.conv1", half, half)
        yield from unit(f"{name}.m.{block}.conv2", half, half)
