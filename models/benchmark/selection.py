"""Which models the benchmark measures: those of cfg/, their image sizes, and their plain twins."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from models.benchmark.published import TableRow, load_published, model_overrides
from models.config import ModelConfig, load_model_config
from utils.config import ROOT, ConfigError


def shipped_models() -> list[ModelConfig]:
    """The models of cfg/, by their names."""
    return [load_model_config(path) for path in sorted((ROOT / "cfg").glob("*.yaml"), key=lambda path: path.stem)]


def load_models(names: Sequence[str], overrides: Sequence[str] = ()) -> list[ModelConfig]:
    """The models of these files, or those of cfg/.

    Args:
        overrides: what --set changes in each of them. A model that was changed is another than its file's: the
            published figures are those of the table row that has the same changes, or none.
    Raises:
        ConfigError: a wrong model file, or an override that does not fit it.
    """
    for_model = model_overrides(overrides)
    if not overrides:
        return [load_model_config(name) for name in names] or shipped_models()
    rows = [row for table in load_published().tables for row in table.rows if row.cfg and row.overrides]
    published = {(row.cfg, frozenset(row.overrides)): row.config().published for row in rows}
    configs = [load_model_config(name, for_model) for name in names]
    return [
        dataclasses.replace(each, published=published.get((each.name, frozenset(overrides)), [])) for each in configs
    ]


def at_sizes(config: ModelConfig, size: tuple[int, int] | None = None) -> list[ModelConfig]:
    """The configuration at one (height, width), or at every size that figures were published for, or at its own."""
    if size is not None:
        return [dataclasses.replace(config, image_size=size[0] if size[0] == size[1] else list(size))]
    sides = dict.fromkeys(figures["image_size"] for figures in config.published)
    return [dataclasses.replace(config, image_size=each) for each in sides] or [config]


def row_configs(row: TableRow) -> list[ModelConfig]:
    """The model of a published table's row at each of its image sizes."""
    config = row.config()
    sizes = row.img_size or [each.size[0] for each in at_sizes(config)]
    return [dataclasses.replace(config, image_size=size) for size in sizes]


def with_csp(configs: Sequence[ModelConfig]) -> list[ModelConfig]:
    """The same models, each of which must have a plain twin.

    Raises:
        ConfigError: one has no cross-stage-partial backbone.
    """
    for config in configs:
        if not _has_csp(config):
            raise ConfigError(f"--pairs: {config.file} has no plain twin: its backbone has no key csp, or csp is null")
    return list(configs)


def families(configs: Sequence[ModelConfig]) -> list[ModelConfig]:
    """The models with a cross-stage-partial backbone, each backbone once whatever its activation.

    Classifiers, and a detector where no classifier has a backbone of that type.
    """
    first: dict[str, ModelConfig] = {}
    types: set[str | None] = set()
    plainest = sorted(configs, key=lambda config: (config.head.get("type") != "classify", len(config.name)))
    for config in plainest:
        kind, classifies = config.backbone.get("type"), config.head.get("type") == "classify"
        if _has_csp(config) and (classifies or kind not in types):
            network = {key: value for key, value in config.backbone.items() if key not in ("activation", "se")}
            first.setdefault(json.dumps(network, sort_keys=True), config)
            types.add(kind)
    return sorted(first.values(), key=lambda config: config.name)


def pairs_of(configs: Sequence[ModelConfig]) -> list[tuple[ModelConfig, ModelConfig]]:
    """Each partial model with each of its twins, at the same image size."""
    return [
        (config, dataclasses.replace(twin, image_size=config.image_size))
        for config in configs
        for twin in twins_of(config)
    ]


def twins_of(config: ModelConfig) -> list[ModelConfig]:
    """The same model with `csp: null` in its backbone, and the plain model that its authors compare it with."""
    same = dataclasses.replace(config, backbone={**config.backbone, "csp": None}, published=[])
    named = load_published().twins.get(config.name)
    return [same, *([load_model_config(named)] if named else [])]


def _has_csp(config: ModelConfig) -> bool:
    """Whether a stage of the backbone is cross-stage-partial; the key may be a list with an entry for each stage."""
    csp = config.backbone.get("csp")
    return any(own is not None for own in (csp if isinstance(csp, list) else [csp]))
