"""RecipeConfig: a checked cfg/train/<recipe>.yaml, everything that only training needs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from utils.augment_config import AugmentConfig
from utils.config import ROOT, ConfigError, apply_overrides, below_root, find_file, load_yaml
from utils.finetune_config import FinetuneConfig
from utils.regularize_config import AdversarialConfig, DropBlockConfig
from utils.schema import height_and_width, require, to_dataclass

RECIPES = ROOT / "cfg" / "train"

_FOR_CLASSIFIERS = {"augment.classify", "evaluation.ten_crop"}
_FOR_BOTH = {
    *("augment.close_mosaic", "augment.multi_scale", "augment.multi_scale_type", "augment.multi_scale_steps"),
    *("augment.albumentations", "evaluation.interval"),
}
"""Keys that mean something to classifiers alone, and to every task; the rest of the groups that `check_task`
looks at is for detectors."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Which optimizer, and how strongly it moves.

    Args:
        type: 'sgd', 'adamw', or 'muon' (orthogonal updates of convolutions, AdamW for the rest: muon.py).
        lr: peak learning rate.
        lr_batch: images of a step (batches added up) that `lr` is for; of another number, the rate is `lr` times their
            ratio with SGD (arXiv:1706.02677), times its square root with AdamW (arXiv:2205.10287) and Muon. null: as it
            is.
        momentum: of SGD and Muon; the first beta of AdamW.
        nesterov: SGD and Muon look one step ahead with their momentum; false is darknet's heavy ball.
        weight_decay: on convolution and linear weights only, never on biases and normalisation.
        clip_norm: largest norm of the gradient of all weights together; null: no clipping.
    """

    type: Literal["sgd", "adamw", "muon"] = "muon"
    lr: float = 0.01
    lr_batch: int | None = None
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.05
    clip_norm: float | None = 10.0

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", "a number above 0", self.lr)
        batch = self.lr_batch
        require(batch is None or batch >= 1, "lr_batch", "a whole number of at least 1, or null", batch)
        require(0 <= self.momentum < 1, "momentum", "a number in [0, 1)", self.momentum)
        require(self.weight_decay >= 0, "weight_decay", "a number of at least 0", self.weight_decay)
        clip = self.clip_norm
        require(clip is None or clip > 0, "clip_norm", "a number above 0, or null", clip)

    def lr_for(self, batch: int) -> float:
        """The peak learning rate of steps of `batch` images."""
        ratio = batch / (self.lr_batch or batch)
        return self.lr * (ratio if self.type == "sgd" else ratio**0.5)


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate as a function of the step.

    Decay and shares of the training count from the first step; the warm-up multiplies the rate while it lasts.

    Args:
        type: 'cosine' falls to `final` times the peak; 'sgdr' does so again and again, starting anew at the peak
            (arXiv:1608.03983); 'step' multiplies by `factor` at each share in `milestones`; 'poly' is the `power` of
            what is left of the training (darknet's classifiers).
        warmup_epochs, warmup_steps: the rate rises over the longer of the two, at most a fifth of the training.
        warmup_power: 1 rises in a line; 4 is darknet's burn-in.
        final: last rate of 'cosine', and of each cycle of 'sgdr', as a share of the peak.
        cycle_epochs: length of the first cycle of 'sgdr'; null: the whole training.
        cycle_mult: each cycle is so many times as long as the one before.
        milestones: shares of the training at which 'step' falls.
        factor: what 'step' multiplies by.
        power: of 'poly'.
    """

    type: Literal["cosine", "sgdr", "step", "poly"] = "cosine"
    warmup_epochs: float = 3.0
    warmup_steps: int = 100
    warmup_power: float = 1.0
    final: float = 0.01
    cycle_epochs: float | None = None
    cycle_mult: float = 2.0
    milestones: list[float] = field(default_factory=lambda: [0.8, 0.9])
    factor: float = 0.1
    power: float = 4.0

    def __post_init__(self) -> None:
        require(0 <= self.final <= 1, "final", "a share in [0, 1]", self.final)
        for name in ("warmup_epochs", "warmup_steps"):
            require(getattr(self, name) >= 0, name, "a number of at least 0", getattr(self, name))
        for name in ("warmup_power", "factor", "power"):
            require(getattr(self, name) > 0, name, "a number above 0", getattr(self, name))
        cycle = self.cycle_epochs
        require(cycle is None or cycle > 0, "cycle_epochs", "a number above 0, or null", cycle)
        require(self.cycle_mult >= 1, "cycle_mult", "a number of at least 1", self.cycle_mult)
        require(all(0 < m < 1 for m in self.milestones), "milestones", "shares in (0, 1)", self.milestones)


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
        require(0 <= self.decay < 1, "decay", "a number in [0, 1)", self.decay)
        require(self.ramp >= 1, "ramp", "a number of at least 1", self.ramp)


@dataclass(frozen=True)
class EvaluationConfig:
    """How validation is done during training: the protocol of val.py.

    Args:
        interval: epochs between evaluations; the last epoch is always evaluated.
        train_images: training images that are evaluated too now and then (train_sample.py); 'auto': 3 % of the time.
        fast: count with faster-coco-eval (the same figures) after each epoch; the final figures are pycocotools'.
        ten_crop: a classifier's probabilities are the mean over ten parts of an image (see data/transforms.py).
    """

    interval: int = 1
    train_images: int | Literal["auto"] = "auto"
    conf_thres: float = 0.001
    iou_thres: float = 0.65
    max_det: int = 100
    fast: bool = True
    ten_crop: bool = False

    def __post_init__(self) -> None:
        require(self.interval >= 1, "interval", "a whole number of at least 1", self.interval)
        several = self.train_images
        require(several == "auto" or several >= 0, "train_images", "a whole number of at least 0, or auto", several)
        for name in ("conf_thres", "iou_thres"):
            require(0 <= getattr(self, name) <= 1, name, "a share in [0, 1]", getattr(self, name))
        require(self.max_det > 10, "max_det", "more than 10, which AR10 looks at", self.max_det)

    @property
    def backend(self) -> str:
        """What counts boxes after each epoch."""
        return "faster" if self.fast else "pycocotools"

    def protocol(self, task: Literal["detect", "classify"]) -> dict[str, Any]:
        """The keys that matter to a task, under the names of val.py."""
        keys = ("conf_thres", "iou_thres", "max_det") if task == "detect" else ("ten_crop",)
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class RecipeConfig:
    """One training recipe.

    Args:
        epochs: passes over the training images; 'auto': as many as their number asks for (train_config.py).
        balance: 'repeat' shows images of rare classes more often, and others less often (data/balance.py).
        balance_threshold: a class in a smaller share of the images is rare; null: in fewer than 100 images.
        batch_size: images in one forward pass, over all processes.
        dynamic_batch: batches grow where augment.multi_scale draws a small size, to what the largest size needs.
        nominal_batch_size: gradients are added up until this many images are seen; null: a step for every batch.
        image_size: side or [height, width] of the network input in pixels; null: the model's own. Read it as `size`.
        amp: mixed precision; 'auto' is bf16 where GPU or CPU computes in it, fp16 on older GPUs, off elsewhere.
        cache: keep small training sets in memory (changes speed only).
        channels_last: memory format of images and weights.
        compile: run the model through torch.compile.
        norm_momentum: weight of a new batch in the statistics of batch normalisation, after the first steps.
        cross_batch_norm: batch normalisation over the batches of a step together (models/normalization.py); without
            `nominal_batch_size` a step has one batch, and this changes nothing.
        sync_bn: with several processes, batch normalisation over the images of all, as one process would do it.
        freeze: prefixes of parameter names that stay as they are, for example [backbone].
        patience: stop after this many epochs without a better AP; null: never.
        save_minutes: write last.pt in the middle of an epoch when this many minutes have passed since the last time.
        anchor_recall: anchors are fitted (data/anchors.py) where the model's own recall less than this; null: never.
        deterministic: on CUDA, use only kernels that repeat to the bit (slower); a CPU always repeats.
        non_finite: what a loss or gradient that is not finite does: 'stop', or 'skip' the step (at most ten in a row).
        bad_images: what an image that cannot be read does: 'stop', or 'skip' it: another takes its place in training,
            and in validation its objects count as not found.
        worker_timeout: seconds to wait for loader processes before the run ends; 0: for ever.
        finetune: how a start from `--weights` is treated; null: like random weights.
        loss: arguments of the head's loss (models/losses/).
    """

    epochs: int | Literal["auto"] = "auto"
    balance: Literal["none", "repeat"] = "repeat"
    balance_threshold: float | None = None
    batch_size: int = 16
    dynamic_batch: bool = False
    nominal_batch_size: int | None = None
    image_size: int | list[int] | None = None
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    cache: bool = True
    channels_last: bool = True
    compile: bool = False
    norm_momentum: float = 0.1
    cross_batch_norm: bool = False
    sync_bn: bool = False
    freeze: list[str] = field(default_factory=list)
    patience: int | None = None
    save_minutes: float = 10.0
    anchor_recall: float | None = 0.98
    deterministic: bool = False
    non_finite: Literal["stop", "skip"] = "stop"
    bad_images: Literal["stop", "skip"] = "stop"
    worker_timeout: float = 600.0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    dropblock: DropBlockConfig = field(default_factory=DropBlockConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    finetune: FinetuneConfig | None = field(default_factory=FinetuneConfig)
    loss: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        epochs = self.epochs
        require(epochs == "auto" or epochs >= 1, "epochs", "a whole number of at least 1, or auto", epochs)
        share = self.balance_threshold
        require(share is None or 0 < share <= 1, "balance_threshold", "a share in (0, 1], or null", share)
        require(self.batch_size >= 1, "batch_size", "a whole number of at least 1", self.batch_size)
        if self.image_size is not None:
            height_and_width(self.image_size, least=32)
        nominal = self.nominal_batch_size
        require(nominal is None or nominal >= 1, "nominal_batch_size", "at least 1, or null", nominal)
        require(0 < self.norm_momentum <= 1, "norm_momentum", "a number in (0, 1]", self.norm_momentum)
        require(self.patience is None or self.patience >= 1, "patience", "at least 1, or null", self.patience)
        recall = self.anchor_recall
        require(recall is None or 0 < recall <= 1, "anchor_recall", "a share in (0, 1], or null", recall)
        both = "true for one of cross_batch_norm and sync_bn at most"
        require(not (self.cross_batch_norm and self.sync_bn), "sync_bn", both, self.sync_bn)
        for name in ("save_minutes", "worker_timeout"):
            require(getattr(self, name) >= 0, name, "a number of at least 0", getattr(self, name))

    @property
    def total_epochs(self) -> int:
        """`epochs` of a recipe that is settled.

        Raises:
            ValueError: they are still 'auto', which only the number of images decides.
        """
        if self.epochs == "auto":
            raise ValueError("epochs: expected a number, found 'auto'; call `settled` first (train_config.py)")
        return self.epochs

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the network input in pixels; None: the model's own."""
        return None if self.image_size is None else height_and_width(self.image_size, least=32)

    @property
    def accumulate(self) -> int:
        """Batches whose gradients make one step."""
        return max(round((self.nominal_batch_size or 1) / self.batch_size), 1)

    @property
    def lr(self) -> float:
        """The peak learning rate, for the images that a step has."""
        return self.optimizer.lr_for(self.batch_size * self.accumulate)

    @property
    def mosaic_epochs(self) -> int:
        """Epochs with mosaic and mixup; the rest see single images."""
        return self.total_epochs - round(self.total_epochs * self.augment.close_mosaic)


def load_recipe(name: str, overrides: list[str] | None = None) -> RecipeConfig:
    """The recipe in a YAML file or of a bare name in cfg/train/, with --set assignments carried out.

    Raises:
        ConfigError: no such file, wrong keys or values, or an assignment that is for the model.
    """
    for assignment in overrides or []:
        if assignment.strip().startswith(("backbone", "neck", "head")):
            raise ConfigError(
                f"--set {assignment}: the keys of the model begin with 'model.': --set model.{assignment}"
            )
    path = find_file(name, [RECIPES], kind="--hyp")
    return recipe_from(apply_overrides(load_yaml(path), overrides or []), where=below_root(path))


def recipe_from(mapping: dict[str, Any], *, where: str) -> RecipeConfig:
    """A recipe from plain values, as a YAML file or a checkpoint holds them."""
    return to_dataclass(RecipeConfig, mapping, where=where)


def check_task(recipe: RecipeConfig, task: str) -> None:
    """Refuse a recipe that was written for another task than the model's, 'detect' or 'classify'.

    Raises:
        ConfigError: names every key that would do nothing and differs from its default.
    """
    idle = []
    groups = {"augment": AugmentConfig, "evaluation": EvaluationConfig, "adversarial": AdversarialConfig}
    for group, kind in groups.items():
        actual, default = getattr(recipe, group), kind()
        for name in (each.name for each in fields(kind)):
            key = f"{group}.{name}"
            for_task = "classify" if key in _FOR_CLASSIFIERS else "detect"
            if key not in _FOR_BOTH and for_task != task and getattr(actual, name) != getattr(default, name):
                idle.append(key)
    if idle:
        wrong, fits = ("detectors", "imagenet-small") if task == "classify" else ("classifiers", "default")
        raise ConfigError(
            f"recipe: {', '.join(idle)}: for {wrong} alone, and the model is not one; take them out, or choose "
            f"a recipe that fits, for example --hyp {fits}"
        )
