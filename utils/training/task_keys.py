"""Which keys of a recipe are for detectors alone, and which for classifiers."""

from __future__ import annotations

from dataclasses import fields

from utils.config import ConfigError
from utils.training.augment_config import AugmentConfig
from utils.training.config import AdversarialConfig, EvaluationConfig, RecipeConfig

FOR_CLASSIFIERS = {"augment.classify", "evaluation.ten_crop"}
FOR_BOTH = {
    *("augment.close_mosaic", "augment.multi_scale", "augment.multi_scale_type", "augment.multi_scale_steps"),
    *("augment.albumentations", "evaluation.interval"),
}
GROUPS = {"augment": AugmentConfig, "evaluation": EvaluationConfig, "adversarial": AdversarialConfig}


def check_task(recipe: RecipeConfig, task: str) -> None:
    """Refuse a recipe that was written for another task than the model's, 'detect' or 'classify'.

    Raises:
        ConfigError: names every key that would do nothing and differs from its default.
    """
    idle = []
    for group, kind in GROUPS.items():
        given, default = getattr(recipe, group), kind()
        for name in (each.name for each in fields(kind)):
            key = f"{group}.{name}"
            for_task = "classify" if key in FOR_CLASSIFIERS else "detect"
            if key not in FOR_BOTH and for_task != task and getattr(given, name) != getattr(default, name):
                idle.append(key)
    if idle:
        wrong, fits = ("detectors", "imagenet-small") if task == "classify" else ("classifiers", "default")
        raise ConfigError(
            f"recipe: {', '.join(idle)}: for {wrong} alone, and the model is not one; take them out, or choose "
            f"a recipe that fits, for example --hyp {fits}"
        )
