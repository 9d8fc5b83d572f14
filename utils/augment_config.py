"""AugmentConfig: the recipe's group `augment`, and ClassifyAugment, its part for classifiers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from utils.schema import require


@dataclass(frozen=True)
class ClassifyAugment:
    """Crop, colour and mixing of a classifier's images, as darknet has them (docs/networks.md, Training recipes).

    A factor given as `f` is drawn from between f and 1, or in half of the cases its inverse is taken.

    Args:
        short_side: range of the image's shorter side, as shares of the input's side; the input is cut out of it at a
            random place. [0.5, 1.75] is 128 to 448 pixels for an input of 256.
        aspect: factor that changes width against height.
        degrees: largest rotation either way.
        hue: largest shift either way, as a share of the colour circle.
        saturation, exposure: factors.
        flip_lr, flip_ud: probability of a mirror image, left-right and upside-down.
        blur: probability of a Gaussian blur of 15 x 15 pixels.
        mix: kinds of mixed images, one of which is drawn for each: 'mixup' blends two, 'cutmix' pastes a part of 30 to
            80 % of each side of one into another, 'mosaic' joins four at a point of 20 to 80 % of each side.
        mix_share: share of the batches whose images are mixed.
        mixup_beta: the blend's share is drawn from Beta(b, b); null: half and half.
    """

    short_side: tuple[float, float] = (1.0, 1.5)
    aspect: float = 0.75
    degrees: float = 0.0
    hue: float = 0.02
    saturation: float = 0.75
    exposure: float = 0.75
    flip_lr: float = 0.5
    flip_ud: float = 0.0
    blur: float = 0.0
    mix: list[Literal["mixup", "cutmix", "mosaic"]] = field(default_factory=list)
    mix_share: float = 0.5
    mixup_beta: float | None = None

    def __post_init__(self) -> None:
        low, high = self.short_side
        require(0 < low <= high, "short_side", "two numbers above 0, the smaller first", list(self.short_side))
        for name in ("aspect", "saturation", "exposure"):
            require(0 < getattr(self, name) <= 1, name, "a factor in (0, 1]", getattr(self, name))
        for name in ("flip_lr", "flip_ud", "blur", "mix_share"):
            require(0 <= getattr(self, name) <= 1, name, "a share in [0, 1]", getattr(self, name))
        require(0 <= self.hue <= 0.5, "hue", "a share in [0, 0.5]", self.hue)
        require(0 <= self.degrees <= 180, "degrees", "a number in [0, 180]", self.degrees)
        require(len(set(self.mix)) == len(self.mix), "mix", "each kind once", self.mix)
        beta = self.mixup_beta
        require(beta is None or beta > 0, "mixup_beta", "a number above 0, or null", beta)


@dataclass(frozen=True)
class AugmentConfig:
    """How training images are varied; each draw depends on (seed, epoch, position in the epoch) alone.

    Args:
        mosaic: probability that four images make one: the image itself and three that are near it in the epoch's order.
        mosaic_type: 'canvas' lays four images around a crossing on a canvas of twice the size and cuts a random part
            out of that; 'quadrants' is darknet's: each image is augmented to full size by itself and fills a quadrant.
        close_mosaic: share of the epochs at the end that see no mosaic and no mixup.
        mixup: probability that two results are blended.
        geometry: how single images are placed: 'affine', by the next four keys, or 'jitter', darknet's way, by its own.
        degrees, shear: largest rotation and shear, degrees either way.
        translate: largest shift as a share of the input size.
        scale: size factor drawn from [1 - scale, 1 + scale]; 'auto': by the objects (train_config.py). Read it as
            `size_change`.
        jitter: each side is cut or widened by up to this share of the input, and the rest is stretched to fill it.
        flip_lr, flip_ud: probability of a mirror image, left-right and upside-down.
        hue, saturation, value: largest change of each, as a share.
        colour: how they are drawn. 'factor': hue turned by at most this share of half the circle, the others times a
            number from [1 - x, 1 + x]; 'darknet': hue turned by at most this share of the circle, the others times or
            divided by a number from [1, 1 + x].
        multi_scale: sizes are drawn from [1 - multi_scale, 1 + multi_scale], in multiples of the stride.
        multi_scale_type: 'uniform' in that range; 'darknet': times or divided by a number from [1, 1 + multi_scale],
            made larger by one stride, and the largest of all in the first steps and the last 100.
        multi_scale_steps: so many steps in a row have one size; 0: every batch has its own.
        min_area, min_side: an object stays if at least this share of its area, and this many pixels a side, are left.
        albumentations: list of {type: NAME, argument: value, ...}, transforms of that library, in this order.
        classify: of classifiers, in place of all of these but close_mosaic (which then closes mixing), multi_scale and
            albumentations.
    """

    mosaic: float = 1.0
    mosaic_type: Literal["canvas", "quadrants"] = "canvas"
    close_mosaic: float = 0.3
    mixup: float = 0.0
    geometry: Literal["affine", "jitter"] = "affine"
    degrees: float = 0.0
    shear: float = 0.0
    translate: float = 0.1
    scale: float | Literal["auto"] = "auto"
    jitter: float = 0.3
    flip_lr: float = 0.5
    flip_ud: float = 0.0
    hue: float = 0.015
    saturation: float = 0.7
    value: float = 0.4
    colour: Literal["factor", "darknet"] = "factor"
    multi_scale: float = 0.0
    multi_scale_type: Literal["uniform", "darknet"] = "uniform"
    multi_scale_steps: int = 0
    min_area: float = 0.1
    min_side: float = 2.0
    albumentations: list[dict[str, Any]] = field(default_factory=list)
    classify: ClassifyAugment = field(default_factory=ClassifyAugment)

    def __post_init__(self) -> None:
        for name in ("mosaic", "close_mosaic", "mixup", "flip_lr", "flip_ud", "min_area"):
            require(0 <= getattr(self, name) <= 1, name, "a share in [0, 1]", getattr(self, name))
        require(self.scale == "auto" or 0 <= self.scale < 1, "scale", "a share in [0, 1), or auto", self.scale)
        require(0 <= self.multi_scale < 1, "multi_scale", "a share in [0, 1)", self.multi_scale)
        require(0 <= self.jitter < 0.5, "jitter", "a share in [0, 0.5)", self.jitter)
        for name in ("degrees", "shear", "translate", "hue", "saturation", "value", "min_side", "multi_scale_steps"):
            require(getattr(self, name) >= 0, name, "a number of at least 0", getattr(self, name))

    @property
    def changes_size(self) -> bool:
        """Whether anything reads `scale`: single images, or mosaics that are seen through an affine map."""
        return self.geometry == "affine" or (self.mosaic > 0 and self.mosaic_type == "canvas")

    @property
    def size_change(self) -> float:
        """`scale` of a recipe that is settled.

        Raises:
            ValueError: it is still 'auto', which only the objects decide.
        """
        if self.scale == "auto":
            raise ValueError("augment.scale: expected a number, found 'auto'; call `settled` first (train_config.py)")
        return self.scale
