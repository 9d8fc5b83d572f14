"""Class names: of files that hold none, and which class of a file is which of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.config import ROOT, ConfigError, load_yaml
from utils.files import read_regular

KNOWN = {80: ROOT / "cfg" / "data" / "coco.yaml", 20: ROOT / "cfg" / "data" / "voc.yaml"}
"""Data sets whose models have so many classes, as a rule."""


def names_beside(classes: int, files: Sequence[Path | str]) -> tuple[str, ...] | None:
    """The names in a file NAME.names, one a line as darknet has it, beside one of a model's files NAME.*, if any.

    Raises:
        ConfigError: it holds another number of names.
    """
    for path in (Path(file).with_suffix(".names") for file in files):
        if path.exists() and not path.is_dir():
            lines = read_regular(path).decode("utf-8-sig", errors="replace").splitlines()
            names = [line.strip() for line in lines if line.strip()]
            if len(names) != classes or len(set(names)) != classes:
                raise ConfigError(f"{path}: expected {classes} different names, one a line, found {len(set(names))}")
            return tuple(names)
    return None


def known_names(classes: int) -> tuple[str, ...]:
    """The likely names of so many classes: COCO's for 80, VOC's for 20, else numbers."""
    if classes not in KNOWN:
        return tuple(f"class {label}" for label in range(classes))
    names = load_yaml(KNOWN[classes])["names"]
    return tuple(str(names[label]) for label in range(classes))


@dataclass(frozen=True)
class ClassMatch:
    """Which class of a file of weights each class of the model is.

    Args:
        labels: for each of the model's classes the label in the file; None where the file has no such class.
        of: classes in the file.
    """

    labels: tuple[int | None, ...]
    of: int

    @property
    def known(self) -> tuple[int, ...]:
        """The model's labels of the classes that the file has."""
        return tuple(own for own, label in enumerate(self.labels) if label is not None)

    @property
    def is_whole(self) -> bool:
        """Whether the file has all of them."""
        return None not in self.labels

    @property
    def is_identity(self) -> bool:
        """Whether the file has the same classes in the same order, and no others."""
        return self.labels == tuple(range(self.of))


def match_names(own: Sequence[str], names: Sequence[str], *, guessed: bool = False) -> ClassMatch:
    """Classes of the same name, where case, blanks, hyphens and underscores do not count.

    Args:
        own: of the model; `names`: of the file.
        guessed: the file's names are what so many classes mostly are. Other names for as many classes then stand for
            the same ones, in their order.

    >>> match_names(["Person", "drone", "traffic_light"], ["person", "car", "traffic light"]).labels
    (0, None, 2)
    """
    theirs, mine = [_plain(name) for name in names], [_plain(name) for name in own]
    if guessed and len(own) == len(names) and set(mine) != set(theirs):
        return by_position(len(own), len(names))
    once = {name for each in (theirs, mine) for name, count in Counter(each).items() if count == 1}
    places = {name: label for label, name in enumerate(theirs) if name in once}
    twice = {name for each in (theirs, mine) for name, count in Counter(each).items() if count > 1}
    exact = {name: label for label, name in enumerate(names)}
    return ClassMatch(
        tuple(exact.get(name) if plain in twice else places.get(plain) for name, plain in zip(own, mine, strict=True)),
        len(names),
    )


def by_position(own: int, theirs: int) -> ClassMatch:
    """The match of classes without names: in their order where they are as many, else none."""
    return ClassMatch(tuple(range(own)) if own == theirs else (None,) * own, theirs)


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
