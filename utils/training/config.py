"""RecipeConfig: a checked cfg/train/<recipe>.yaml, everything that only training needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from utils.config import ROOT, apply_overrides, find_file, load_yaml, to_dataclass

RECIPES = ROOT / "cfg" / "train"


@dataclass(frozen=True)
class OptimizerConfig:
    """Which optimizer, and how strongly it moves.

    Args:
        type: 'sgd' with Nesterov momentum, or 'adamw'.
        lr: peak learning rate.
        momentum: of SGD; the first beta of AdamW.
        weight_decay: on convolution and linear weights only, never on biases and normalisation.
        clip_norm: largest norm of the gradient of all weights together; null: no clipping.
    """

    type: Literal["sgd", "adamw"] = "adamw"
    lr: float = 0.002
    momentum: float = 0.9
    weight_decay: float = 0.05
    clip_norm: float | None = 10.0

    def __post_init__(self) -> None:
        _require(self.lr > 0, "lr", "a number above 0", self.lr)
        _require(0 <= self.momentum < 1, "momentum", "a number in [0, 1)", self.momentum)
        _require(self.weight_decay >= 0, "weight_decay", "a number of at least 0", self.weight_decay)
        clip = self.clip_norm
        _require(clip is None or clip > 0, "clip_norm", "a number above 0, or null", clip)


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate as a function of the step.

    Args:
        type: 'cosine' falls to `final` times the peak; 'step' multiplies by `factor` at each share in `milestones`.
        warmup_epochs, warmup_steps: the rate rises over the longer of the two, at most a fifth of the training.
        warmup_power: 1 rises in a line; 4 is darknet's burn-in.
        final: last rate of 'cosine' as a share of the peak.
        milestones: shares of the training at which 'step' falls.
        factor: what 'step' multiplies by.
    """

    type: Literal["cosine", "step"] = "cosine"
    warmup_epochs: float = 3.0
    warmup_steps: int = 100
    warmup_power: float = 1.0
    final: float = 0.01
    milestones: list[float] = field(default_factory=lambda: [0.8, 0.9])
    factor: float = 0.1

    def __post_init__(self) -> None:
        _require(0 <= self.final <= 1, "final", "a share in [0, 1]", self.final)
        for name in ("warmup_epochs", "warmup_steps"):
            _require(getattr(self, name) >= 0, name, "a number of at least 0", getattr(self, name))
        for name in ("warmup_power", "factor"):
            _require(getattr(self, name) > 0, name, "a number above 0", getattr(self, name))
        _require(all(0 < m < 1 for m in self.milestones), "milestones", "shares in (0, 1)", self.milestones)


@dataclass(frozen=True)
class EmaConfig:
    """The running average of the weights, which is what is evaluated and shipped.

    Args:
        decay: share of the old average kept at a step, late in training; 0 turns averaging off.
        ramp: the average grows with the training: after n steps it keeps (1 + n) / (ramp + n), so that it covers
            about the last 1 / ramp of them, until `decay` is reached.
    """

    decay: float = 0.9998
    ramp: float = 10.0

    def __post_init__(self) -> None:
        _require(0 <= self.decay < 1, "decay", "a number in [0, 1)", self.decay)
        _require(self.ramp >= 1, "ramp", "a number of at least 1", self.ramp)


@dataclass(frozen=True)
class AugmentConfig:
    """How training images are varied; each draw depends on (seed, epoch, index) alone.

    Args:
        mosaic: probability that four images make one.
        close_mosaic: share of the epochs at the end that see no mosaic and no mixup.
        mixup: probability that two results are blended.
        degrees, shear: largest rotation and shear, degrees either way.
        translate: largest shift as a share of the input size.
        scale: size factor drawn from [1 - scale, 1 + scale].
        flip_lr, flip_ud: probability of a mirror image, left-right and upside-down.
        hue, saturation, value: largest change of each, as a share.
        multi_scale: each batch's size drawn from [1 - multi_scale, 1 + multi_scale], in multiples of the stride.
        min_area, min_side: an object stays if at least this share of its area, and this many pixels a side, are left.
        albumentations: list of {type: NAME, argument: value, ...}, transforms of that library, in this order.
    """

    mosaic: float = 1.0
    close_mosaic: float = 0.15
    mixup: float = 0.0
    degrees: float = 0.0
    shear: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    flip_lr: float = 0.5
    flip_ud: float = 0.0
    hue: float = 0.015
    saturation: float = 0.7
    value: float = 0.4
    multi_scale: float = 0.0
    min_area: float = 0.1
    min_side: float = 2.0
    albumentations: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("mosaic", "close_mosaic", "mixup", "flip_lr", "flip_ud", "min_area"):
            _require(0 <= getattr(self, name) <= 1, name, "a share in [0, 1]", getattr(self, name))
        for name in ("scale", "multi_scale"):
            _require(0 <= getattr(self, name) < 1, name, "a share in [0, 1)", getattr(self, name))
        for name in ("degrees", "shear", "translate", "hue", "saturation", "value", "min_side"):
            _require(getattr(self, name) >= 0, name, "a number of at least 0", getattr(self, name))


@dataclass(frozen=True)
class EvaluationConfig:
    """How validation is done during training: the protocol of val.py.

    Args:
        interval: epochs between evaluations; the last epoch is always evaluated.
        fast: count with faster-coco-eval (the same figures) after each epoch; the final figures are pycocotools'.
    """

    interval: int = 1
    conf_thres: float = 0.001
    iou_thres: float = 0.65
    max_det: int = 100
    fast: bool = True

    def __post_init__(self) -> None:
        _require(self.interval >= 1, "interval", "a whole number of at least 1", self.interval)
        for name in ("conf_thres", "iou_thres"):
            _require(0 <= getattr(self, name) <= 1, name, "a share in [0, 1]", getattr(self, name))
        _require(self.max_det > 10, "max_det", "more than 10, which AR10 looks at", self.max_det)


@dataclass(frozen=True)
class RecipeConfig:
    """One training recipe.

    Args:
        epochs: passes over the training images.
        batch_size: images in one forward pass, over all processes.
        nominal_batch_size: gradients are added up until this many images are seen; null: a step for every batch.
        image_size: side of the network input in pixels; null: the model's own.
        amp: mixed precision; 'auto' is bf16 where GPU or CPU computes in it, fp16 on older GPUs, off elsewhere.
        cache: keep small training sets in memory (changes speed only).
        channels_last: memory format of images and weights.
        compile: run the model through torch.compile.
        norm_momentum: weight of a new batch in the statistics of batch normalisation, after the first steps.
        freeze: prefixes of parameter names that stay as they are, for example [backbone].
        patience: stop after this many epochs without a better AP; null: never.
        save_minutes: write last.pt in the middle of an epoch when this many minutes have passed since the last time.
        deterministic: on CUDA, use only kernels that repeat to the bit (slower); a CPU always repeats.
        loss: arguments of the head's loss (models/losses/).
    """

    epochs: int = 100
    batch_size: int = 16
    nominal_batch_size: int | None = None
    image_size: int | None = None
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    cache: bool = True
    channels_last: bool = True
    compile: bool = False
    norm_momentum: float = 0.1
    freeze: list[str] = field(default_factory=list)
    patience: int | None = None
    save_minutes: float = 10.0
    deterministic: bool = False
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    loss: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs", "a whole number of at least 1", self.epochs)
        _require(self.batch_size >= 1, "batch_size", "a whole number of at least 1", self.batch_size)
        _require(self.image_size is None or self.image_size >= 32, "image_size", "at least 32 pixels", self.image_size)
        nominal = self.nominal_batch_size
        _require(nominal is None or nominal >= 1, "nominal_batch_size", "at least 1, or null", nominal)
        _require(self.patience is None or self.patience >= 1, "patience", "at least 1, or null", self.patience)
        _require(self.save_minutes >= 0, "save_minutes", "a number of at least 0", self.save_minutes)

    @property
    def accumulate(self) -> int:
        """Batches whose gradients make one step."""
        return max(round((self.nominal_batch_size or 1) / self.batch_size), 1)

    @property
    def mosaic_epochs(self) -> int:
        """Epochs with mosaic and mixup; the rest see single images."""
        return self.epochs - round(self.epochs * self.augment.close_mosaic)


@dataclass(frozen=True)
class TrainConfig:
    """One run, resolved: what config.yaml in its folder says.

    Args:
        model: plain values of a ModelConfig.
        data: path of the data YAML, or 'shapes'.
        image_size: (height, width) of the network input.
        weights: checkpoint to start from; None starts from random weights.
        seed: of weights, order and augmentation.
        workers: loader processes; changes speed only.
    """

    model: dict[str, Any]
    recipe: RecipeConfig
    data: str
    image_size: tuple[int, int]
    weights: str | None
    seed: int
    workers: int

    def __post_init__(self) -> None:
        for name in ("seed", "workers"):
            _require(getattr(self, name) >= 0, name, "a whole number of at least 0", getattr(self, name))


def load_recipe(name: str, overrides: list[str] | None = None) -> RecipeConfig:
    """The recipe in a YAML file or of a bare name in cfg/train/, with --set assignments carried out."""
    path = find_file(name, [RECIPES], what="--hyp")
    return recipe_from(apply_overrides(load_yaml(path), overrides or []), where=_short(path))


def recipe_from(mapping: dict[str, Any], *, where: str) -> RecipeConfig:
    """A recipe from plain values, as a YAML file or a checkpoint holds them."""
    return to_dataclass(RecipeConfig, mapping, where=where)


def saved_config(path: Path, *, workers: int | None = None) -> TrainConfig:
    """The configuration in a run's config.yaml, with another number of loader processes if one is given.

    Raises:
        ConfigError: not a file that train.py wrote.
    """
    saved = load_yaml(path)
    if workers is not None:
        saved["workers"] = workers
    return to_dataclass(TrainConfig, saved, where=str(path))


def _require(condition: bool, name: str, expected: str, found: object) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected}, found {found!r}")


def _short(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(ROOT))
    except ValueError:
        return str(path)
