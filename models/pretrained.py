"""Start a model from other weights: what fits is copied, and a report counts the rest."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from models.backbones.timm import TimmBackbone
from models.darknet.weights import load_weights_
from models.detector import Detector
from models.pretrained_timm import fold_image_statistics, from_timm, is_timm_darknet, warn_of_slope
from models.pretrained_yolox import from_yolox, is_yolox
from utils.checkpoint import ForeignFile, load_matching_
from utils.config import ConfigError
from utils.saved import check_weights
from utils.text import listed
from utils.weights import load_foreign, load_saved_model

logger = logging.getLogger(__name__)

SUFFIXES = (".pt", ".pth", ".safetensors")
_ANCHORS = re.compile(r"head\.anchors_\d+")


def start_from_(model: Detector, path: Path, *, trust: bool = False) -> bool:
    """Copy weights wherever name and shape agree, log what was copied, and return whether that was the whole head.

    A checkpoint or .safetensors file of ours gives its averaged weights; a classifier's backbone starts a detector.
    Anchors belong to the head trained with them: they are copied with a whole head only. A
    darknet file (.weights, .conv.N) must have the model's layers from the first on: all of them, the first N, or all
    but those before the yolo layers where it was trained on other classes. A state_dict of another program fits by its
    names, as they are or below `backbone.`; one of timm's fits a backbone of type timm, and those of Darknet-53 and
    CSPDarknet-53 our own; one of YOLOX's fits the yolox-*.yaml of its size.

    Args:
        trust: let a foreign pickle run its code; see load_foreign.
    Raises:
        ConfigError: a missing, damaged or unsafe file, or one in which nothing fits.
    """
    if path.suffix == ".weights" or ".conv." in path.name:
        return _start_from_darknet_(model, path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"--weights {path}: expected a checkpoint (.pt) or a darknet file (.weights, .conv.N), or weights of "
            "another program (.pth, .safetensors)"
        )
    try:
        weights = load_saved_model(path)["ema"]
    except ForeignFile:
        weights = fitted(model, load_foreign(path, trust=trust), path)
    except KeyError:
        raise ConfigError(f"--weights {path}: the checkpoint has no averaged weights; name another") from None
    return _copy_(model, weights, path)


def _copy_(model: Detector, weights: Mapping[str, Tensor], path: Path) -> bool:
    """Copy what fits, anchors with a whole head only, and log the counts; returns whether the head was whole."""
    own = model.state_dict()
    learnt = [name for name in own if _part(name) == "head" and not _ANCHORS.fullmatch(name)]
    whole = all(name in weights and weights[name].shape == own[name].shape for name in learnt)
    others = {
        name: value
        for name, value in weights.items()
        if _ANCHORS.fullmatch(name) and name in own and not torch.equal(value.cpu(), own[name].cpu())
    }
    rest = {name: value for name, value in weights.items() if whole or name not in others}
    check_weights({name: rest[name] for name in rest if name in own}, where=f"--weights {path}")
    loaded, other_shape, absent = load_matching_(model, rest)
    absent = [name for name in absent if name not in others]
    if not any(not _ANCHORS.fullmatch(name) for name in loaded):
        raise ConfigError(f"--weights {path}: none of its {len(weights)} tensors fits this model; is it another --cfg?")
    logger.info("Weights: %d of %d tensors loaded from %s", len(loaded), len(own), path)
    logger.info("  %s", ", ".join(_share(part, own, loaded) for part in dict.fromkeys(_part(name) for name in own)))
    left = {"of another shape, left as initialised": other_shape, "not in the file, left as initialised": absent}
    left["in the file without a place in this model"] = [name for name in rest if name not in own]
    for reason, names in left.items():
        if names:
            logger.info("  %d %s: %s%s", len(names), reason, ", ".join(names[:6]), ", ..." if len(names) > 6 else "")
    if others:
        levels = [[round(side, 2) for side in value.flatten().tolist()] for _, value in sorted(others.items())]
        which = "come with the head" if whole else "stay those of the configuration; the file has others"
        logger.info("  The anchors %s: %s", which, levels)
    return whole


def _part(name: str) -> str:
    return name.partition(".")[0]


def _share(part: str, own: Mapping[str, Tensor], loaded: list[str]) -> str:
    """'backbone 310 of 312'."""
    return f"{part} {sum(_part(name) == part for name in loaded)} of {sum(_part(name) == part for name in own)}"


def fitted(model: Detector, weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Weights of another program under the model's names, where they have one.

    Raises:
        ConfigError: none of them has one.
    """
    own, backbone = model.state_dict(), model.backbone
    if is_yolox(weights):
        weights = from_yolox(weights)
    below = {f"backbone.{name}": value for name, value in weights.items()}
    if isinstance(backbone, TimmBackbone):
        below = {f"backbone.{name}": value for name, value in backbone.match(weights).items()}
    elif is_timm_darknet(weights):
        try:
            mapped = fold_image_statistics(from_timm(weights, backbone))
        except ConfigError as error:
            raise ConfigError(f"--weights {path}: {error}") from None
        warn_of_slope(backbone)
        below = {f"backbone.{name}": value for name, value in mapped.items()}
    best = max((weights, below), key=lambda names: sum(name in own for name in names))
    if not any(name in own for name in best):
        first = listed(list(weights)[:4])
        raise ConfigError(
            f"--weights {path}: none of its {len(weights)} tensors has a name of this model ({first}, ...). Weights of "
            "a timm network start the same network: backbone: {type: timm, model: NAME, pretrained: FILE}"
        )
    return best


def _start_from_darknet_(model: Detector, path: Path) -> bool:
    loaded = load_weights_(model, path, partial=True)
    logger.info("Weights: %d of %d layers loaded from %s, up to %s", loaded.layers, loaded.of, path, loaded.last)
    if loaded.skipped:
        logger.info("  %d layers are for other classes and left as initialised", loaded.skipped)
    rest = loaded.of - loaded.layers - loaded.skipped
    if rest:
        logger.info("  %d layers are not in the file and left as initialised", rest)
    return loaded.layers == loaded.of
