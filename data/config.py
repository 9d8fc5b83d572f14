"""The schema of a data YAML: where the images and labels of each split are, and the names of the classes."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from utils.config import ROOT, ConfigError, dump_yaml, find_file, from_home, load_yaml
from utils.files import write_atomically
from utils.schema import to_dataclass
from utils.text import listed, shorten, shown
from utils.tiles import Tiling

SPLITS = ("train", "val", "test")
EMBEDDED = ("shapes", "shapes.yaml")
"""Names of the embedded data set."""

FOREIGN = frozenset(
    {"author", "channels", "colors", "date", "description", "flip_idx", "info", "kpt_names", "kpt_oks_sigmas",
     "license", "roboflow", "task", "type", "url", "version", "yaml_file"}
)  # fmt: skip
"""Keys of other programs that are no near misses of ours, whatever they look like."""


@dataclass(frozen=True)
class DataConfig:
    """A checked cfg/data/<dataset>.yaml; all paths are absolute.

    Args:
        source: the YAML file itself.
        path: the root that the other paths are relative to; the YAML's folder when left out.
        train, val, test: a COCO JSON file, a .txt list of images, or a folder of images, with labels/ or Annotations/
            beside. For a classifier a folder of class folders, or a .txt list of images in such folders.
        images: the folder that file_name in COCO JSON is relative to.
        names: class names by class index; None takes them from the COCO JSON, or from the class folders, sorted. For a
            classifier also a map of folder to name, {n01440764: tench, ...}.
        folders: of a classifier's classes, in the order of names, where they have other names; the map's keys.
        nc: the number of classes, checked against names.
        labels: how bad labels are handled: 'warn' corrects or drops and reports them, 'error' stops.
        unreadable: what a label that cannot be corrected leaves out: its 'object', the whole 'image' (which would else
            teach that the object is background), or all: 'run' stops.
        labels_dir: the folder of YOLO or VOC labels, where they are in none of the usual places; its subfolders are
            those of the images, or it has none.
        kpt_shape: for YOLO rows with keypoints: their number, and 2 (x, y) or 3 (x, y, visibility) numbers for each;
            [0, 2] says that long rows are outlines. None decides by the rows.
        voc_first_pixel: 1 if VOC boxes count pixels from 1 (the VOC development kit), 0 if from 0.
        category_ids: the data set's own ids of the classes, ascending, for YOLO and VOC labels; 1, 2, ... if left out.
        tiling: pictures are trained on and evaluated in tiles.
        download: how to get the data; shown to the user, never run.
        also: split -> its further folders or lists, where the YAML has several; the first is in train, val or test.
    """

    source: Path
    path: Path
    train: Path | None = None
    val: Path | None = None
    test: Path | None = None
    images: Path | None = None
    names: tuple[str, ...] | None = None
    folders: tuple[str, ...] | None = None
    nc: int | None = None
    labels: Literal["warn", "error"] = "warn"
    unreadable: Literal["object", "image", "run"] = "image"
    labels_dir: Path | None = None
    kpt_shape: tuple[int, int] | None = None
    voc_first_pixel: Literal[0, 1] = 1
    category_ids: tuple[int, ...] | None = None
    tiling: Tiling | None = None
    download: str | None = None
    also: dict[str, tuple[Path, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.train is None and self.val is None and self.test is None:
            raise ConfigError(f"{self.source}: expected at least one of train, val and test, found none")
        if self.nc is not None and self.nc < 1:
            raise ConfigError(f"{self.source}: nc is {self.nc}, expected at least 1")
        if self.kpt_shape is not None and (self.kpt_shape[0] < 0 or self.kpt_shape[1] not in (2, 3)):
            raise ConfigError(
                f"{self.source}: kpt_shape is {list(self.kpt_shape)}; expected the number of keypoints and 2 or 3, as "
                "[17, 3]"
            )
        if self.names is not None and self.nc not in (None, len(self.names)):
            raise ConfigError(f"{self.source}: nc is {self.nc}, but there are {len(self.names)} names; leave nc out")
        if self.folders is not None and len(set(self.folders)) != len(self.names or ()):
            raise ConfigError(f"{self.source}: {len(self.folders)} folders for {len(self.names or ())} names")
        if self.category_ids is not None and list(self.category_ids) != sorted(set(self.category_ids)):
            raise ConfigError(f"{self.source}: category_ids must ascend, each id once")
        if self.category_ids is not None and self.names is not None and len(self.category_ids) != len(self.names):
            raise ConfigError(f"{self.source}: {len(self.category_ids)} category_ids for {len(self.names)} names")


def load_data_config(name: str | None = None) -> DataConfig:
    """The data YAML of a path, or of a bare name in cfg/data/; None and 'shapes' are the embedded data set.

    Raises:
        ConfigError: no such file, or a wrong key or value in it.
    """
    if name is None or name in EMBEDDED:
        from data.shapes import ensure_shapes  # only this data set needs the drawing code

        return read_data_config(ensure_shapes())
    typed = from_home(str(name))
    if typed.is_dir() and not (ROOT / "cfg" / "data" / f"{name}.yaml").is_file():
        return read_folder(typed)
    try:
        source = find_file(str(name), [ROOT / "cfg" / "data"], kind="data set")
    except ConfigError as error:
        raise ConfigError(f"{error}, and the embedded set 'shapes'") from None
    return read_darknet(source) if source.suffix == ".data" else read_data_config(source)


def read_folder(folder: Path) -> DataConfig:
    """The data YAML in a folder; without one, what the folder holds, which is told.

    Raises:
        ConfigError: several data YAMLs, or no data set in the folder.
    """
    from data.formats.guess import data_yamls, guess  # looks into files of all formats

    folder = folder.resolve()
    files = data_yamls(folder)
    if len(files) > 1 and files[0].stem != "data":
        raise ConfigError(f"{folder}: several data YAMLs; name one of them: {listed(file.name for file in files)}")
    if files:
        return read_data_config(files[0])
    found = guess(folder)
    values = {"path": found.root, **found.values}
    shown_values = {key: value for key, value in found.values.items() if key != "names"}
    names = f", names: {listed(found.values['names'], 200)}" if "names" in found.values else ""
    text = ", ".join(f"{key}: {value}" for key, value in shown_values.items())
    _tell(
        f"{found.root}: no data YAML; found {found.kind}: {text}{names}. Save this as data.yaml: "
        f"python -m data.doctor {folder} --write"
    )
    return _checked(folder, found.root, values)


def read_darknet(file: Path) -> DataConfig:
    """A data set by darknet's .data file."""
    from data.formats.guess import read_darknet_data

    found = read_darknet_data(file.resolve())
    return _checked(file.resolve(), found.root, {"path": found.root, **found.values})


def write_data_yaml(config: DataConfig) -> Path:
    """Save the data YAML of a folder that has none, in the folder that its paths are relative to.

    Raises:
        ConfigError: the data set has a YAML already.
    """
    if not config.source.is_dir():
        raise ConfigError(f"{config.source}: --write saves what a folder without a data YAML holds; this is a file")
    file = config.path / "data.yaml"
    values: dict[str, Any] = {}
    for key in (*SPLITS, "labels_dir"):
        path = getattr(config, key)
        if path is not None:
            values[key] = path.relative_to(config.path).as_posix() if path.is_relative_to(config.path) else str(path)
    values |= {"nc": config.nc} if config.names is None and config.nc else {}
    values |= {"names": list(config.names)} if config.names else {}
    write_atomically(file, dump_yaml(values, lines=True))
    return file


def read_data_config(source: Path) -> DataConfig:
    """The data YAML in a file; see `load_data_config`."""
    source = source.parent.resolve() / source.name
    values = load_yaml(source)
    for key in ("source", "also"):
        if key in values:
            raise ConfigError(f"{source}: {key}: unknown key; leave it out")
    root = _join(source, source.parent, "path", values.get("path"))
    if root is not None and not isinstance(root, Path):
        raise ConfigError(f"{source}: path: expected a folder, found {shown(root)}; put quotes around a number")
    values["path"] = root = _existing_root(source, root or source.parent, values)
    known = {each.name for each in fields(DataConfig)}
    foreign = [key for key in values if key not in known and not _misspelt(str(key), known)]
    if foreign:
        _tell(f"{source}: keys of other programs are not used: {listed(foreign, 300)}")
    return _checked(source, root, {key: value for key, value in values.items() if key not in foreign})


def _misspelt(key: str, known: Iterable[str]) -> bool:
    """Whether an unknown key is a near miss of one of ours."""
    return key not in FOREIGN and bool(difflib.get_close_matches(key, list(known), n=1, cutoff=0.75))


def _tell(note: str) -> None:
    from data.images import tell  # loads Pillow, which --help does without

    tell([note])


def _existing_root(source: Path, root: Path, values: Mapping[str, Any]) -> Path:
    """The root as written; where it does not exist, the folder that has the splits: YAMLs are moved with their data."""
    if root.is_dir() or not isinstance(values.get("path"), str):
        return root
    written = from_home(values["path"])
    nearby = [base / "datasets" / written for base in (source.parent, source.parent.parent)] + [source.parent]
    for folder in nearby:
        targets = [values[split] for split in SPLITS if isinstance(values.get(split), str)]
        if any((folder / target).exists() for target in targets):
            _tell(f"{source}: path: no such folder: {root}; {folder} is taken, which has the images")
            return folder
    return root


def _existing_target(source: Path, root: Path, key: str, value: str) -> Path:
    """A path as written; '../train/images' of a YAML beside train/, as Roboflow writes it, is read from there."""
    path = _join(source, root, key, value)
    rest = value.removeprefix("./")
    while not path.exists() and rest.startswith("../"):
        rest = rest.removeprefix("../")
        for base in dict.fromkeys((root, source.parent)):
            if (base / rest).exists():
                return Path(os.path.normpath(base / rest))
    return path


def _checked(source: Path, root: Path, values: dict[str, Any]) -> DataConfig:
    """The configuration of values whose keys are ours or near misses."""
    also: dict[str, list[Path]] = {}
    for split in SPLITS:
        if isinstance(several := values.get(split), list) and several and all(isinstance(one, str) for one in several):
            values[split] = several[0]
            also[split] = [_existing_target(source, root, split, other) for other in several[1:] if "\0" not in other]
    for key in (*SPLITS, "images", "labels_dir"):
        if isinstance(values.get(key), str) and "\0" not in values[key]:
            values[key] = _existing_target(source, root, key, values[key])
        elif key in values:
            values[key] = _join(source, root, key, values[key])
    names = values.get("names")
    if isinstance(names, dict) and names and all(isinstance(key, str) for key in names) and "folders" not in values:
        values |= {"folders": list(names), "names": list(names.values())}
    if "names" in values:
        values["names"] = _names(values["names"], f"{source}: names")
    return to_dataclass(DataConfig, {**values, "source": source, "also": also}, where=str(source))


def _join(where: Path, root: Path, key: str, value: Any) -> Any:
    """A path relative to `root`, from its text; other values are left to the type check."""
    if not isinstance(value, str):
        return value
    if "\0" in value:
        raise ConfigError(f"{where}: {key}: expected a path, found {shown(value)}")
    return Path(os.path.normpath(root / from_home(value)))


def _names(value: Any, where: str) -> tuple[str, ...] | None:
    """Names from a list or from a map of 0, 1, ... to names."""
    if value is None:
        return None
    if isinstance(value, dict):
        if sorted(value, key=str) != sorted(range(len(value)), key=str):
            raise ConfigError(
                f"{where}: expected the numbers 0 to {len(value) - 1} as keys, found {shown(list(value))}"
            )
        value = [value[index] for index in range(len(value))]
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{where}: expected a list of names or a map of numbers to names, found {shown(value)}")
    for name in value:
        if isinstance(name, bool) or not isinstance(name, (str, int, float)) or name == "":
            raise ConfigError(
                f"{where}: expected a name, found {shown(name)}; put quotes around words like yes, no, null"
            )
    names = tuple(str(name) for name in value)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(
            f"{where}: '{shorten(twice[0])}' stands twice; results are listed by name, so each must be different"
        )
    return names
