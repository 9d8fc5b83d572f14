"""Every key of every shipped file: without it there is a default or one clear message, misspelt it is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from models.build import build_criterion, build_model
from models.config import load_model_config
from utils.config import ROOT, ConfigError, load_yaml
from utils.training.config import recipe_from

MODELS = sorted((ROOT / "cfg").glob("*.yaml"))
RECIPES = sorted((ROOT / "cfg" / "train").glob("*.yaml"))
FREE = {"published"}
"""Keys whose content is data for people, not configuration."""


def build_from(values: dict[str, Any], path: Path) -> None:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with torch.device("meta"):  # shapes only: the large networks build in no time
        build_model(load_model_config(path), 3)


def use_recipe(values: dict[str, Any]) -> None:
    recipe = recipe_from(values, where="recipe.yaml")
    with torch.device("meta"):
        model = build_model(load_model_config("cspdet-n"), 3)
    build_criterion(model, recipe.loss, where="recipe.yaml: loss")


def key_paths(values: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*above, key)
        if isinstance(value, dict) and key not in FREE:
            yield from key_paths(value, (*above, key))


def changed(values: dict[str, Any], path: tuple[str, ...], *, new_key: str | None) -> dict[str, Any]:
    """A copy without the key at `path`, or with another name for it."""
    first, *rest = path
    if rest:
        return {**values, first: changed(values[first], tuple(rest), new_key=new_key)}
    if new_key is None:
        return {key: value for key, value in values.items() if key != first}
    return {new_key if key == first else key: value for key, value in values.items()}


def misspelt(key: str) -> str:
    """The key with its second letter twice."""
    return key[:2] + key[1:]


@pytest.mark.parametrize("file", MODELS, ids=lambda path: path.stem)
def test_model_without_one_key_builds_or_names_it(file: Path, tmp_path: Path) -> None:
    values = load_yaml(file)
    for path in key_paths(values):
        try:
            build_from(changed(values, path, new_key=None), tmp_path / "model.yaml")
        except ConfigError as error:
            assert path[-1] in str(error), f"{'.'.join(path)}: {error}"


@pytest.mark.parametrize("file", MODELS, ids=lambda path: path.stem)
def test_misspelt_model_key_is_answered_with_the_nearest(file: Path, tmp_path: Path) -> None:
    values = load_yaml(file)
    for path in key_paths(values):
        wrong = misspelt(path[-1])
        with pytest.raises(ConfigError) as caught:
            build_from(changed(values, path, new_key=wrong), tmp_path / "model.yaml")
        assert f"'{path[-1]}'" in str(caught.value), f"{'.'.join(path)}: {caught.value}"


@pytest.mark.parametrize("file", RECIPES, ids=lambda path: path.stem)
def test_recipe_without_one_key_is_valid(file: Path) -> None:
    values = load_yaml(file)
    use_recipe(values)
    for path in key_paths(values):
        try:
            use_recipe(changed(values, path, new_key=None))
        except ConfigError as error:
            assert path[-1] == "type", f"{'.'.join(path)}: {error}"
            assert "type" in str(error)


@pytest.mark.parametrize("file", RECIPES, ids=lambda path: path.stem)
def test_misspelt_recipe_key_is_answered_with_the_nearest(file: Path) -> None:
    values = load_yaml(file)
    for path in key_paths(values):
        with pytest.raises(ConfigError) as caught:
            use_recipe(changed(values, path, new_key=misspelt(path[-1])))
        assert f"'{path[-1]}'" in str(caught.value), f"{'.'.join(path)}: {caught.value}"


def test_default_recipe_names_every_key_with_its_default() -> None:
    written = load_yaml(ROOT / "cfg" / "train" / "default.yaml")
    recipe = recipe_from({}, where="defaults")
    named = {key for key in written if key != "loss"}
    assert named | {"loss"} == set(recipe.__dataclass_fields__)
    for group in ("optimizer", "schedule", "ema", "augment", "evaluation"):
        missing = set(getattr(recipe, group).__dataclass_fields__) - set(written[group])
        assert missing <= {"milestones", "factor"}, f"{group}: {missing}"  # of the step schedule, which it does not use
