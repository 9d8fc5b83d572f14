"""The published tables of the family, row by row: cfg/tables/published.yaml."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from models.config import ModelConfig, load_model_config
from utils.config import ROOT, ConfigError, load_yaml
from utils.schema import to_dataclass

TABLES = ROOT / "cfg" / "tables" / "published.yaml"


@dataclass(frozen=True)
class TableRow:
    """One row of a published table.

    Args:
        name: as its authors call it.
        cfg: the model file in cfg/; its `published` holds the figures. Without one `missing` says why.
        overrides: what makes that file the row's model where it takes a key or two, as --set takes it (`model.` first).
        img_size: the row's image sizes; every size that the file has figures for when left out.
        num_classes: where the published file is for other classes than COCO's or ImageNet's.
        figures: of a row without a file or with `overrides`, as the keys of `published` in a model file.
        params, floats, bflops: of a published cfg, what must come out exactly: trainable numbers, all numbers of its
            weights file, and operations, one for each image size.
        note: what else to know.
    """

    name: str
    cfg: str | None = None
    overrides: list[str] = field(default_factory=list)
    img_size: list[int] | None = None
    missing: str | None = None
    num_classes: int | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    params: int | None = None
    floats: int | None = None
    bflops: list[float] | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        if (self.cfg is None) == (self.missing is None):
            raise ValueError(f"row '{self.name}': expected either the key 'cfg' or the key 'missing'")

    @property
    def changed(self) -> bool:
        """Whether the row's model is not just the one of its file."""
        return bool(self.overrides or self.num_classes)

    @property
    def model(self) -> str:
        """The row's model as the benchmark takes it: a file, and what is set in it."""
        classes = [f"--num-classes {self.num_classes}"] if self.num_classes else []
        return " ".join(filter(None, [self.cfg, set_options(self.overrides), *classes]))

    def config(self) -> ModelConfig:
        """The row's model.

        Raises:
            ValueError: a row without a model file.
        """
        if self.cfg is None:
            raise ValueError(f"row '{self.name}' has no model file: {self.missing}")
        config = load_model_config(self.cfg, model_overrides(self.overrides))
        if not self.changed:
            return config
        side = self.img_size[0] if self.img_size else config.size[0]
        published = [{"image_size": side, **self.figures}] if self.figures else []
        return dataclasses.replace(config, published=published, image_size=side if self.img_size else config.image_size)


def set_options(assignments: Sequence[str]) -> str:
    """Assignments as a shell takes them.

    >>> set_options(["model.head.pool=last", "model.backbone.csp=[null, {ratio: 0.5}]"])
    "--set model.head.pool=last --set 'model.backbone.csp=[null, {ratio: 0.5}]'"
    """
    return " ".join(f"--set {shlex.quote(text)}" for text in assignments)


def model_overrides(assignments: Sequence[str]) -> list[str]:
    """What --set says of the model, as `load_model_config` takes it.

    Raises:
        ConfigError: an assignment to something else.

    >>> model_overrides(["model.backbone.csp.ratio=0.25"])
    ['backbone.csp.ratio=0.25']
    """
    for text in assignments:
        if not text.startswith("model."):
            raise ConfigError(f"--set {text}: the keys of the model begin with 'model.': --set model.{text}")
    return [text.removeprefix("model.") for text in assignments]


@dataclass(frozen=True)
class Table:
    """One published table.

    Args:
        kind: 'classify' and 'detect' compare with published figures, 'totals' with what a published cfg amounts to;
            'inference' has speeds.
        source: where the figures are from.
    """

    title: str
    kind: Literal["classify", "detect", "totals", "inference"]
    source: str
    rows: list[TableRow]


@dataclass(frozen=True)
class Published:
    """What was published of the family.

    Args:
        tables: of costs, row by row.
        inference: the authors' table of frames a second.
        twins: partial model -> the plain model that its authors compare it with, where that is not the same file with
            `csp: null`.
    """

    tables: list[Table]
    inference: Table
    twins: dict[str, str]


def load_published() -> Published:
    """The published tables.

    Raises:
        ConfigError: a wrong key or value in their file.
    """
    values = load_yaml(TABLES)
    *tables, inference = [_table(each) for each in (*values["tables"], values["inference"])]
    return Published(tables, inference, values["twins"])


def _table(values: dict[str, Any]) -> Table:
    where = f"{TABLES}: {values['title']}"
    rows = [to_dataclass(TableRow, row, where=f"{where}: {row.get('name')}") for row in values["rows"]]
    return to_dataclass(Table, {**values, "rows": rows}, where=where)
