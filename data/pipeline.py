"""The albumentations pipeline of a recipe; only this module imports the library, which takes a second or two."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from data.transforms import Labelled
from utils.config import ConfigError, unknown_key

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # the library would ask a server for its newest version
try:
    import albumentations
except ImportError as error:
    raise ConfigError(
        f"augment.albumentations: the library cannot be imported ({error}): pip install 'albumentations>=2.0,<3', or "
        "use the recipe's own keys (docs/configuration.md says which stand for what)"
    ) from None


class AlbumentationsPipeline:
    """Transforms of the albumentations library, written in the recipe as {type: NAME, argument: value, ...}.

    Args:
        specs: one mapping a transform, applied in this order.
        where: the recipe key, for messages.
    Raises:
        ConfigError: an unknown transform or argument.
    """

    def __init__(self, specs: list[dict[str, Any]], *, where: str = "augment.albumentations") -> None:
        transforms = [_transform(spec, where=f"{where}[{index}]") for index, spec in enumerate(specs)]
        with warnings.catch_warnings():  # it warns if no transform moves boxes, which is fine
            warnings.simplefilter("ignore", UserWarning)
            self.compose = albumentations.Compose(
                transforms,
                bbox_params=albumentations.BboxParams(format="pascal_voc", label_fields=["rows"], clip=True),
            )
        self.empty = not transforms

    def __call__(self, item: Labelled, rng: np.random.Generator) -> Labelled:
        """The item after all transforms, still (H, W, 3) uint8 and xyxy pixels; the image may change its size.

        Raises:
            ValueError: the transforms return anything but such an image.
        """
        if self.empty:
            return item
        self.compose.set_random_seed(int(rng.integers(2**31)))
        result = self.compose(image=item.image, bboxes=item.boxes, rows=np.arange(len(item.boxes)))
        image = result["image"]
        if getattr(image, "dtype", None) != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            kind = f"{getattr(image, 'dtype', type(image).__name__)} {tuple(getattr(image, 'shape', ()))}"
            raise ValueError(
                f"augment.albumentations: expected uint8 images of three channels from the transforms, found {kind}; "
                "leave out Normalize, ToFloat, ToTensorV2 and the like"
            )
        rows = np.asarray(result["rows"], dtype=np.int64)
        boxes = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
        return Labelled(image, boxes, item.labels[rows], item.crowd[rows])


def _transform(spec: dict[str, Any], *, where: str) -> albumentations.BasicTransform:
    known = {
        name: kind
        for name, kind in vars(albumentations).items()
        if isinstance(kind, type) and issubclass(kind, albumentations.BasicTransform)
    }
    name = spec.get("type")
    if not isinstance(name, str) or name not in known:
        message = (
            unknown_key(where, f"type: {name}", known).split(" Known:")[0].replace("unknown key", "unknown transform")
        )
        raise ConfigError(f"{message} See the list of transforms in albumentations' documentation.")
    arguments = {key: value for key, value in spec.items() if key != "type"}
    schema = getattr(known[name], "InitSchema", None)
    accepted = set(arguments) if schema is None else set(schema.model_fields)
    for key in arguments:
        if key not in accepted:
            raise ConfigError(unknown_key(where, key, accepted - {"strict"}, owner=f" of albumentations' {name}"))
    try:
        return known[name](**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: albumentations refuses {spec}: {error}") from None
