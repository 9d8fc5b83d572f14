"""What a darknet cfg may contain: kinds of sections, their keys, and the values of each key (src/parser.c)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from utils.text import shown

ACTIVATIONS = ("leaky", "relu", "mish", "swish", "logistic", "linear", "relu6", "tanh")
SYNONYMS = {"silu": "swish", "sigmoid": "logistic", "leaky_relu": "leaky", "lrelu": "leaky", "none": "linear"}
"""Names of other programs -> darknet's, which takes a name that it does not know for relu."""
YES_NO = ("0", "1")


class Neutral(NamedTuple):
    """A key that must be switched off: what it does otherwise, and the number that switches it off, if one does."""

    effect: str
    off: float | None = 0

    def allows(self, value: str) -> bool:
        """Whether the value written switches it off."""
        try:
            return self.off is not None and float(value) == self.off
        except ValueError:
            return False


@dataclass(frozen=True)
class Keys:
    """The keys of one kind of section; darknet knows no others.

    Args:
        used: key -> its type ('int', 'float', 'ints', 'floats', 'text', or the words allowed).
        neutral: keys that change what the layer computes in a way not supported here -> the values that switch it off,
            and what the key does, for the message.
        training: keys of darknet's own training, read and kept; here the recipe decides how to train.
    """

    used: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    neutral: Mapping[str, Neutral] = field(default_factory=dict)
    training: Sequence[str] = ()


def convert(value: str | float, kind: str | tuple[str, ...]) -> Any:
    """A value of a cfg, converted to the type of its key.

    Raises:
        ValueError: the value has another type.
    """
    if isinstance(kind, tuple):
        if str(value) not in kind:
            own = SYNONYMS.get(str(value), "")
            meant = f"; in darknet it is called {own}" if own in kind else ""
            raise ValueError(f"expected one of {', '.join(kind)}, found {shown(value)}{meant}")
        return str(value)
    if kind == "text":
        return str(value)
    whole, many = kind.startswith("int"), kind.endswith("s")
    word = "whole number" if whole else "number"
    try:
        # darknet lets a list end with a comma
        parts = str(value).rstrip(", ").split(",") if many else [str(value)]
        numbers = [_whole(part) if whole else _finite(part) for part in parts]
    except ValueError:
        expected = f"{word}s with commas between" if many else f"a {word}"
        raise ValueError(f"expected {expected}, found {shown(value)}") from None
    return numbers if many else numbers[0]


def _whole(text: str) -> int:
    """A whole number as darknet's int holds it.

    Raises:
        ValueError: something else, also what Python alone takes for one, like 1_000.
    """
    if not re.fullmatch(r"\s*[-+]?[0-9]{1,10}\s*", text) or abs(int(text)) > 2**31 - 1:
        raise ValueError(text)
    return int(text)


def _finite(text: str) -> float:
    """A number that is neither NaN nor infinite in float32.

    Raises:
        ValueError: something else, also what Python alone takes for one, like 1_0.
    """
    number = float(text)
    if "_" in text or not abs(number) < 3.4e38:
        raise ValueError(text)
    return number


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_EVERY_LAYER = Keys(
    neutral={
        "dontload": Neutral("the weights file has no numbers of this layer"),
        "dontloadscales": Neutral("the weights file has other numbers for this layer"),
        "dontsave": Neutral("the weights file has no numbers of this layer"),
        "numload": Neutral("the weights file has numbers of some filters alone"),
    },
    training=_words(
        "burnin_update clip dont_update learning_rate onlyforward smooth stopbackward train_only_bn truth unsupervised"
    ),
)

_NET = Keys(
    used={"width": "int", "height": "int", "channels": "int", "letter_box": YES_NO},
    training=_words(
        "batch subdivisions time_steps track augment_speed dynamic_minibatch optimized_memory workspace_size_limit_MB "
        "learning_rate learning_rate_min batches_per_cycle batches_cycle_mult sgdr_cycle sgdr_mult momentum decay "
        "max_batches burn_in power policy step steps scale scales seq_scales gamma warmup max_chart_loss loss_scale "
        "adam B1 B2 eps inputs max_crop min_crop center flip angle aspect saturation exposure hue blur gaussian_noise "
        "mixup cutmix mosaic mosaic_bound contrastive contrastive_jit_flip contrastive_color contrastive_min_step "
        "label_smooth_eps resize_step attention adversarial_lr ema_alpha equidistant_point try_fix_nan "
        "num_sigmas_reject_badlabels badlabels_rejection_percentage badlabels_reject_threshold weights_reject_freq "
        "state_constrain use_cuda_graph sequential_subdivisions show_receptive_field unsupervised full_batch "
        "no_augment hierarchy clip max_ratio min_ratio notruth random"
    ),
)

_BLUR = Neutral("it blurs the map before it takes every other cell")
_DEFORMED = Neutral("it computes with turned or stretched copies of its weights")
_STREAMS = ("stream", "wait_stream")
"""Where darknet's GPU code runs a layer; nothing that it computes."""

_CONVOLUTIONAL = Keys(
    used={
        "filters": "int",
        "size": "int",
        "stride": "int",
        "stride_x": "int",
        "stride_y": "int",
        "groups": "int",
        "dilation": "int",
        "pad": "int",
        "padding": "int",
        "batch_normalize": "int",
        "cbn": "int",
        "activation": ACTIVATIONS,
    },
    neutral={
        "antialiasing": _BLUR,
        "binary": Neutral("it computes with the signs of the weights"),
        "bin_output": Neutral("it turns the output into bits"),
        "coordconv": Neutral("it writes the position into two of the channels"),
        "flipped": Neutral("the weights file has its numbers in another order"),
        "rotate": _DEFORMED,
        "share_index": Neutral("it computes with the weights of another layer, and the file has none of its own", None),
        "stretch": _DEFORMED,
        "stretch_sway": _DEFORMED,
        "sway": _DEFORMED,
        "xnor": Neutral("it computes with the signs of weights and inputs"),
    },
    training=("angle", "assisted_excitation", "dot", "grad_centr", "reverse", *_STREAMS),
)

_YOLO = Keys(
    used={
        "mask": "ints",
        "anchors": "floats",
        "num": "int",
        "classes": "int",
        "scale_x_y": "float",
        "new_coords": YES_NO,
        "iou_loss": ("mse", "iou", "giou", "diou", "ciou"),
        # The last two are ours; darknet takes them for the first.
        "nms_kind": ("default", "greedynms", "diounms", "vote", "none"),
        "beta_nms": "float",
    },
    training=_words(
        "jitter resize random max ignore_thresh truth_thresh iou_thresh iou_thresh_kind iou_normalizer obj_normalizer "
        "cls_normalizer delta_normalizer max_delta label_smooth_eps counters_per_class focal_loss objectness_smooth "
        "map show_details embedding_layer sim_thresh dets_for_track dets_for_show track_ciou_norm track_history_size"
    ),
)

_REGION = Keys(
    used={
        "anchors": "floats",
        "num": "int",
        "classes": "int",
        "softmax": YES_NO,
        # Of the loss, like those that follow: the model's head takes them over, and a recipe may override them.
        "rescore": "int",
        "bias_match": "int",
        "thresh": "float",
        "object_scale": "float",
        "noobject_scale": "float",
        "coord_scale": "float",
        "class_scale": "float",
        # Ours, as in [yolo]; darknet does not read them here.
        "nms_kind": ("default", "greedynms", "diounms", "vote", "none"),
        "beta_nms": "float",
    },
    neutral={
        "background": Neutral("one of its classes is the background"),
        "classfix": Neutral("boxes below 0.5 count for nothing, or classes are trained where there is no object"),
        "coords": Neutral("its predictions have more than a box, a score and classes", 4),
        "map": Neutral("its classes are numbered by another file", None),
        "tree": Neutral("its classes form a tree, with probabilities within each branch", None),
    },
    training=_words("absolute focal_loss jitter log mask_scale max random resize sqrt"),
)
_REORG = Keys(
    used={"stride": "int"},
    neutral={
        "extra": Neutral("it adds numbers at the end of the map"),
        "flatten": Neutral("it puts the channels of a cell behind each other"),
        "reverse": Neutral("it turns channels into cells"),
    },
)

_POOL: dict[str, str | tuple[str, ...]] = dict.fromkeys(("size", "stride", "stride_x", "stride_y", "padding"), "int")
_FROM_MAP: dict[str, str | tuple[str, ...]] = {"from": "int", "activation": ACTIVATIONS}

KINDS: dict[str, Keys] = {
    "net": _NET,
    "convolutional": _CONVOLUTIONAL,
    "route": Keys(used={"layers": "ints", "groups": "int", "group_id": "int"}, training=_STREAMS),
    "shortcut": Keys(
        used={
            "from": "ints",
            "activation": ACTIVATIONS,
            "weights_type": ("none", "per_feature", "per_layer", "per_channel"),
            "weights_normalization": ("none", "relu", "avg_relu", "softmax"),
        },
        neutral={
            "alpha": Neutral("it multiplies the map before the sum", 1),
            "beta": Neutral("it multiplies the source before the sum", 1),
        },
        training=("assisted_excitation",),
    ),
    "maxpool": Keys(
        used={**_POOL, "maxpool_depth": YES_NO, "out_channels": "int"},
        neutral={
            "antialiasing": _BLUR,
            "maxpool_zero_nonmax": Neutral("it keeps the map's size and clears all but the largest cells"),
        },
    ),
    "local_avgpool": Keys(used=_POOL, neutral={"antialiasing": _BLUR}),
    "upsample": Keys(used={"stride": "int", "scale": "float"}),
    "sam": Keys(used=_FROM_MAP),
    "scale_channels": Keys(used={**_FROM_MAP, "scale_wh": YES_NO}),
    "avgpool": Keys(),
    "dropout": Keys(
        used={
            "probability": "float",
            "dropblock": YES_NO,
            "dropblock_size_rel": "float",
            "dropblock_size_abs": "int",
        }
    ),
    "softmax": Keys(
        neutral={
            "groups": Neutral("it gives several lists of probabilities", 1),
            "spatial": Neutral("it gives probabilities at every position"),
            "temperature": Neutral("it divides the logits, so every probability is another one", 1),
            "tree": Neutral("its classes form a tree, with probabilities within each branch", None),
        },
        training=("noloss",),
    ),
    "cost": Keys(training=("type", "scale", "ratio", "noobj", "thresh")),
    "yolo": _YOLO,
    "region": _REGION,
    "reorg": _REORG,
    "reorg3d": _REORG,
}
"""Kinds of sections that can be built."""

ALIASES = {
    "network": "net",
    "conv": "convolutional",
    "max": "maxpool",
    "avg": "avgpool",
    "local_avg": "local_avgpool",
    "soft": "softmax",
}

REFUSED = _words(
    "Gaussian_yolo detection contrastive connected conn deconvolutional deconv local activation act batchnorm "
    "lrn normalization crop empty silence implicit history rnn crnn gru lstm conv_lstm iseg"
)
"""Kinds that darknet knows and this project does not support."""


def known_keys(kind: str) -> dict[str, str | tuple[str, ...]]:
    """Every key of a kind of section, with its type."""
    keys = KINDS[kind]
    return {**dict.fromkeys((*neutral_keys(kind), *keys.training, *_common(kind).training), "text"), **keys.used}


def neutral_keys(kind: str) -> dict[str, Neutral]:
    """Keys of a kind of section that must be switched off."""
    return {**KINDS[kind].neutral, **_common(kind).neutral}


def _common(kind: str) -> Keys:
    return Keys() if kind == "net" else _EVERY_LAYER
