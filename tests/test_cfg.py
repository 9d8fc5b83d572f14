"""Every key of every shipped file: without it there is a default or one clear message, misspelt it is named."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import models.config
from models.build import build_criterion, build_model, check_parts
from models.config import ModelConfig, load_model_config
from models.detector import Detector
from utils.config import ROOT, ConfigError, load_yaml
from utils.recipe import check_task, recipe_from

MODELS = sorted((ROOT / "cfg").glob("*.yaml"))
RECIPES = sorted((ROOT / "cfg" / "train").glob("*.yaml"))
FREE = {"published"}
"""Keys whose content is data for people, not configuration."""


read_once = functools.cache(load_yaml)


def check(values: dict[str, Any]) -> ModelConfig:
    """Read a model file with these values and check every key of it, without building anything.

    No file is written, and the shipped ones are read once: there are hundreds of keys.
    """
    folder = ROOT / "cfg"

    def load(path: Path) -> dict[str, Any]:
        return copy.deepcopy(values if path == folder / "variant.yaml" else read_once(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.config, "load_yaml", load)
        patch.setattr(models.config, "find_file", find)
        config = load_model_config(folder / "variant.yaml")
    check_parts(config)
    return config


def find(name: str, folders: Sequence[Path], **_: Any) -> Path:
    """A file in cfg/; its name need not be looked for."""
    return ROOT / "cfg" / Path(name).with_suffix(".yaml").name


def build_on_meta(config: ModelConfig) -> None:
    with torch.device("meta"):  # shapes only: the large networks build in no time
        build_model(config, 3)


@functools.cache
def model_for(name: str) -> Detector:
    """A model of the task that a recipe is for."""
    with torch.device("meta"):
        return build_model(load_model_config(name), 3)


def use_recipe(values: dict[str, Any], file: Path) -> None:
    recipe = recipe_from(values, where="recipe.yaml")
    model = model_for("csppeleenet" if file.stem.startswith("imagenet") else "cspdet-n")
    check_task(recipe, model.task)
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


@functools.cache
def without_one_key(file: Path) -> list[tuple[tuple[str, ...], ModelConfig | str]]:
    """Every key of a model file, with the configuration without it, or the message where there is none."""
    return without_each_key(read_once(file))


def without_each_key(values: dict[str, Any]) -> list[tuple[tuple[str, ...], ModelConfig | str]]:
    found: list[tuple[tuple[str, ...], ModelConfig | str]] = []
    for path in key_paths(values):
        try:
            found.append((path, check(changed(values, path, new_key=None))))
        except ConfigError as error:
            found.append((path, str(error)))
    return found


def says_what_is_missing(path: tuple[str, ...], message: str, file: Path) -> bool:
    """Whether a message names the key that was left out.

    A file with a base falls back on the base's value, and so a message may name the key that no longer fits to that.
    """
    names = {path[-1]}
    if "base" in load_yaml(file) and path != ("base",):
        names |= {key for other in key_paths(load_yaml(file)) for key in other if other[0] == path[0]}
    return any(name in message for name in names)


@pytest.mark.parametrize("file", MODELS, ids=lambda path: path.stem)
def test_model_without_one_key_is_valid_or_names_it(file: Path) -> None:
    for path, found in without_one_key(file):
        if isinstance(found, str):
            assert says_what_is_missing(path, found, file), f"{'.'.join(path)}: {found}"


def test_model_without_one_key_builds_or_names_it() -> None:
    """Each key of each type once, in the first file that has it; the slow test builds them all."""
    seen: set[tuple[str, ...]] = set()
    for file in MODELS:
        for path, found in without_one_key(file):
            part = None if isinstance(found, str) else getattr(found, path[0], None)
            kind = part["type"] if isinstance(part, dict) else ""
            if isinstance(found, ModelConfig) and kind and (kind, *path) not in seen:
                seen.add((kind, *path))
                builds_or_names(path, found, file)


@pytest.mark.slow
@pytest.mark.parametrize("file", MODELS, ids=lambda path: path.stem)
def test_every_model_without_one_key_builds_or_names_it(file: Path) -> None:
    for path, found in without_one_key(file):
        if isinstance(found, ModelConfig):
            builds_or_names(path, found, file)


def builds_or_names(path: tuple[str, ...], config: ModelConfig, file: Path) -> None:
    try:
        build_on_meta(config)
    except ConfigError as error:
        assert says_what_is_missing(path, str(error), file), f"{'.'.join(path)}: {error}"


@pytest.mark.parametrize("file", MODELS, ids=lambda path: path.stem)
def test_misspelt_model_key_is_answered_with_the_nearest(file: Path) -> None:
    values = read_once(file)
    for path in key_paths(values):
        with pytest.raises(ConfigError) as caught:
            check(changed(values, path, new_key=misspelt(path[-1])))
        assert f"'{path[-1]}'" in str(caught.value), f"{'.'.join(path)}: {caught.value}"


def test_a_variant_falls_back_on_its_base_or_names_the_key() -> None:
    """A file of the kind that `base` is for: fewer keys, each over one of the base's."""
    variant = {"base": "cspdarknet53-panet-spp", "backbone": {"csp": None}, "neck": {"type": "prn", "channels": [8, 8]}}
    found = dict(without_each_key(variant))
    assert "variant of another model file names that file with the key 'base'" in found["base",]
    assert "neck.channels: this key is missing" in found["neck", "channels"]
    assert found["neck", "type"].neck["type"] == "panet"
    assert found["backbone", "csp"].backbone["csp"] == {"ratio": 0.5, "fusion": "both"}
    only_depths = {"base": "yolov4", "backbone": {"type": "darknet", "depths": [1]}, "head": {"type": "classify"}}
    for path, message in (("backbone",), "is valid"), (("base",), "backbone.channels: this key is missing"):
        outcome = dict(without_each_key(only_depths))[path]
        assert isinstance(outcome, ModelConfig) if message == "is valid" else message in outcome


def test_mistakes_in_every_part_come_at_once() -> None:
    parts = {"backbone": {"typ": "darknet"}, "neck": {"type": "panet", "chanels": [8]}, "head": {"type": "anchor"}}
    with pytest.raises(ConfigError) as caught:
        check(parts)
    for message in ("backbone.type: this key is missing", "neck.chanels: unknown key", "head.anchors: this key"):
        assert message in str(caught.value)


@pytest.mark.parametrize("file", RECIPES, ids=lambda path: path.stem)
def test_recipe_without_one_key_is_valid(file: Path) -> None:
    values = load_yaml(file)
    use_recipe(values, file)
    for path in key_paths(values):
        try:
            use_recipe(changed(values, path, new_key=None), file)
        except ConfigError as error:
            assert path[-1] == "type", f"{'.'.join(path)}: {error}"
            assert "type" in str(error)


@pytest.mark.parametrize("file", RECIPES, ids=lambda path: path.stem)
def test_misspelt_recipe_key_is_answered_with_the_nearest(file: Path) -> None:
    values = load_yaml(file)
    for path in key_paths(values):
        with pytest.raises(ConfigError) as caught:
            use_recipe(changed(values, path, new_key=misspelt(path[-1])), file)
        assert f"'{path[-1]}'" in str(caught.value), f"{'.'.join(path)}: {caught.value}"


def test_default_recipe_names_every_key_with_its_default() -> None:
    written = load_yaml(ROOT / "cfg" / "train" / "default.yaml")
    recipe = recipe_from({}, where="defaults")
    named = {key for key in written if key != "loss"}
    assert named | {"loss"} == set(recipe.__dataclass_fields__)
    for group in ("optimizer", "schedule", "ema", "augment", "evaluation"):
        missing = set(getattr(recipe, group).__dataclass_fields__) - set(written[group])
        assert missing <= {"milestones", "factor", "power"}, f"{group}: {missing}"  # of schedules that it does not use
