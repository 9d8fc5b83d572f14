"""Start a model from other weights: what fits is copied, and a report counts the rest."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from models.backbones.timm import TimmBackbone
from models.class_rows import with_own_rows
from models.darknet.weights import classes_in_file, count_floats_in, load_weights_
from models.detector import Detector
from models.names import KNOWN, ClassMatch, by_position, known_names, match_names, names_beside
from models.pretrained_timm import fold_image_statistics, from_timm, is_timm_darknet, warn_of_slope
from models.pretrained_yolox import classes_of_yolox, from_yolox, is_yolox
from utils.checkpoint import ForeignFile, load_matching_
from utils.config import ConfigError
from utils.saved import check_weights
from utils.text import listed
from utils.weights import load_foreign, load_saved_model

logger = logging.getLogger(__name__)

SUFFIXES = (".pt", ".pth", ".safetensors")
LARGE = 16.0
"""Weights that read the image and are so many times larger than fresh ones are scaled for another range of pixels."""
_ANCHORS = re.compile(r"head\.anchors_\d+")


@dataclass(frozen=True)
class Started:
    """What a model got from a file of weights.

    Args:
        is_whole: the head came whole, for the same classes.
        known: how many classes of the model the file has.
        new: names of trainable parameters that the file did not give, or not whole.
        scales: parameters that read the image -> how many times larger they are than fresh ones, where that is much.
        is_darknet: a darknet file, with the rows of its head.
    """

    is_whole: bool
    known: int
    new: tuple[str, ...]
    scales: dict[str, float]
    is_darknet: bool = False

    def without_head(self, model: Detector) -> Started:
        """The same after the head has got initial weights again."""
        logger.info("  The head that came belongs to other anchors: it is left as initialised")
        head = [name for name, _ in model.named_parameters() if _part(name) == "head"]
        new = tuple(dict.fromkeys((*self.new, *head)))
        return replace(self, is_whole=False, known=0, new=new, is_darknet=False)


def start_from_(model: Detector, path: Path, *, names: Sequence[str] = (), trust: bool = False) -> Started:
    """Copy weights wherever name and shape agree, and log what was copied.

    A checkpoint or .safetensors file of ours gives its averaged weights; a classifier's backbone starts a detector.
    Of a head for other classes the outputs of those with the same names are copied, with all that is not for classes.
    Anchors belong to the head trained with them, and come with it. A
    darknet file (.weights, .conv.N) must have the model's layers from the first on: all of them, the first N, or all
    of the same network for other classes. A state_dict of another program fits by its
    names, as they are or below `backbone.`; one of timm's fits a backbone of type timm, and those of Darknet-53 and
    CSPDarknet-53 our own; one of YOLOX's fits the yolox-*.yaml of its size.

    Args:
        names: of the model's classes; without names classes fit by their number alone.
        trust: let a foreign pickle run its code; see load_foreign.
    Raises:
        ConfigError: a missing, damaged or unsafe file, or one in which nothing fits.
    """
    is_darknet = path.suffix == ".weights" or ".conv." in path.name
    if not is_darknet and path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"--weights {path}: expected a checkpoint (.pt) or a darknet file (.weights, .conv.N), or weights of "
            "another program (.pth, .safetensors)"
        )
    before = _image_weights(model)
    started = (
        _start_from_darknet_(model, path, names) if is_darknet else _start_from_tensors_(model, path, names, trust)
    )
    return replace(started, scales=_large(before, _image_weights(model)))


def _start_from_tensors_(model: Detector, path: Path, names: Sequence[str], trust: bool) -> Started:
    theirs: Sequence[str] | None = None
    guessed = False
    try:
        saved = load_saved_model(path)
        weights, theirs = saved["ema"], saved.get("names")
    except ForeignFile:
        foreign = load_foreign(path, trust=trust)
        if classes := classes_of_yolox(foreign):
            beside = names_beside(classes, [path])
            theirs, guessed = beside or known_names(classes), beside is None
        weights = fitted(model, foreign, path)
    except KeyError:
        raise ConfigError(f"--weights {path}: the checkpoint has no averaged weights; name another") from None
    match = _match(model, names, theirs, _classes_in(weights, model), guessed=guessed)
    return _copy_(model, weights, path, match, names)


def _match(
    model: Detector, names: Sequence[str], theirs: Sequence[str] | None, classes: int | None, *, guessed: bool
) -> ClassMatch | None:
    """Which class of a file each of the model's is; None where the file has no head like the model's.

    Args:
        theirs: names of the file's classes; None where it says nothing of them.
        classes: of its head.
    """
    if classes is None or (theirs is not None and len(theirs) != classes):  # the latter: of another number of anchors
        return None
    if not names or theirs is None or (guessed and classes not in KNOWN):
        return by_position(model.head.num_classes, classes)
    return match_names(names, theirs, guessed=guessed)


def _classes_in(weights: Mapping[str, Tensor], model: Detector) -> int | None:
    """The classes of a head like the model's among the weights of a file."""
    layers = model.head.class_layers()
    if not layers:
        return None
    layer, (groups, before) = next(iter(layers.items()))
    bias = weights.get(f"head.{layer}.bias")
    if bias is None or bias.ndim != 1 or len(bias) % groups or len(bias) // groups <= before:
        return None
    return len(bias) // groups - before


def _say_classes(names: Sequence[str], classes: ClassMatch | None) -> None:
    """Which classes came, where not all of them did in their order."""
    if classes is None or classes.is_identity or not names:
        return
    came = [names[label] for label in classes.known]
    fresh = [name for name in names if name not in came]
    if not came:
        logger.info("  No class of the file has the name of one of the data: their outputs are left as initialised")
        return
    rest = f"; left as initialised: {_some(fresh)}" if fresh else ""
    logger.info("  Outputs of %d of %d classes copied by name: %s%s", len(came), len(names), _some(came), rest)


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"


def _copy_(
    model: Detector, weights: Mapping[str, Tensor], path: Path, classes: ClassMatch | None, names: Sequence[str]
) -> Started:
    """Copy what fits, anchors with the boxes that belong to them only, and log the counts."""
    own, in_file = model.state_dict(), list(weights)
    in_part: list[str] = []
    if classes is not None:
        weights, in_part = with_own_rows(weights, model.head, classes)
    learnt = [name for name in own if _part(name) == "head" and not _ANCHORS.fullmatch(name)]
    fits = all(name in weights and weights[name].shape == own[name].shape for name in learnt)
    others = {
        name: value
        for name, value in weights.items()
        if _ANCHORS.fullmatch(name) and name in own and not torch.equal(value.cpu(), own[name].cpu())
    }
    fits = fits and all(value.shape == own[name].shape for name, value in others.items())
    rest = {name: value for name, value in weights.items() if fits or name not in others}
    check_weights({name: rest[name] for name in rest if name in own}, where=f"--weights {path}")
    loaded, other_shape, absent = load_matching_(model, rest)
    if not any(not _ANCHORS.fullmatch(name) for name in loaded):
        raise ConfigError(f"--weights {path}: none of its {len(weights)} tensors fits this model; is it another --cfg?")
    loaded = [name for name in loaded if name not in in_part]
    logger.info("Weights: %d of %d tensors loaded from %s", len(loaded), len(own), path)
    logger.info("  %s", ", ".join(_share(part, own, loaded) for part in dict.fromkeys(_part(name) for name in own)))
    left = {"loaded in part, by classes": in_part, "of another shape, left as initialised": other_shape}
    left["of other classes, left as initialised"] = [name for name in absent if name in in_file and name not in others]
    left["not in the file, left as initialised"] = [name for name in absent if name not in in_file]
    left["in the file without a place in this model"] = [name for name in rest if name not in own]
    for reason, tensors in left.items():
        if tensors:
            some = f"{', '.join(tensors[:6])}{', ...' if len(tensors) > 6 else ''}"
            logger.info("  %d %s: %s", len(tensors), reason, some)
    if others:
        levels = [[round(side, 2) for side in value.flatten().tolist()] for _, value in sorted(others.items())]
        which = "come with the head" if fits else "stay those of the configuration; the file has others"
        logger.info("  The anchors %s: %s", which, levels)
    _say_classes(names, classes)
    new = tuple(name for name, _ in model.named_parameters() if name not in loaded)
    known = model.head.num_classes if classes is None else len(classes.known)
    return Started(fits and not in_part, known if fits else 0, new, {})


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


def _start_from_darknet_(model: Detector, path: Path, names: Sequence[str]) -> Started:
    classes = classes_in_file(model, count_floats_in(path))
    beside = names_beside(classes, [path]) if classes and names else None
    theirs = beside or (known_names(classes) if classes else None)
    match = _match(model, names, theirs, classes, guessed=beside is None)
    loaded = load_weights_(model, path, partial=True, classes=match)
    logger.info("Weights: %d of %d layers loaded from %s, up to %s", loaded.layers, loaded.of, path, loaded.last)
    if loaded.skipped:
        logger.info("  %d layers are for other classes, and loaded in part", loaded.skipped)
    rest = loaded.of - loaded.layers - loaded.skipped
    if rest:
        logger.info("  %d layers are not in the file and left as initialised", rest)
    _say_classes(names, match)
    missing = {id(tensor) for tensor in loaded.rest}
    new = tuple(name for name, parameter in model.named_parameters() if id(parameter) in missing)
    known = 0 if match is None else len(match.known)
    return Started(loaded.layers == loaded.of, known, new, {}, is_darknet=match is not None)


def _image_weights(model: Detector) -> dict[str, float]:
    """The root mean square of each convolution that may read the image."""
    with torch.no_grad():
        return {
            name: float(weight.square().mean().sqrt())
            for name, weight in model.named_parameters()
            if weight.ndim == 4 and weight.shape[1] == 3 and not weight.is_meta
        }


def _large(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """How many times larger each of them became, where that is much.

    YOLOX's networks read pixels from 0 to 255; that is folded into these weights (pretrained_yolox.py), which an
    optimizer whose steps have one size for all would hardly move.
    """
    ratios = {name: now[name] / before[name] for name in now if before[name] > 0}
    return {name: round(ratio, 1) for name, ratio in ratios.items() if ratio > LARGE}
