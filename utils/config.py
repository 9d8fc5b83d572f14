"""Configuration files: YAML to plain values and back, --set, and the words for a mistake in them."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
"""The project's root: where cfg/ lies."""

_MOST = 20
"""Messages list up to this many files; of more, only the nearest name is given."""


class ConfigError(ValueError):
    """A wrong file, key or value of a configuration; the message is meant for the user."""


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, has a key twice, or holds something else than a mapping.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except ConfigError as error:
        raise ConfigError(f"{path}, {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(value, dict):
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{path}: expected 'key: value' lines, found {kind}")
    return value


def parse_yaml(text: str) -> Any:
    """The value of one YAML text, read as `load_yaml` reads files (for --set)."""
    return yaml.load(text, _Loader)


def dump_yaml(value: Any) -> str:
    """YAML text of plain values, keys in their order."""
    return yaml.dump(
        to_plain(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120
    )


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as dicts, lists and strings, for YAML files and checkpoints."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def apply_overrides(config: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of `config` with `key.path=value` assignments from --set carried out; values are read as YAML.

    Raises:
        ConfigError: an assignment without '=' or through something that is no mapping.
    """
    result = _copy(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {assignment}: expected key.path=value, for example optimizer.lr=0.01")
        *parents, last = path.strip().split(".")
        group = result
        for depth, key in enumerate(parents):
            if group.get(key) is None:
                group[key] = {}
            group = group[key]
            if not isinstance(group, dict):
                known = ".".join(parents[: depth + 1])
                raise ConfigError(f"--set {assignment}: '{known}' holds the value {group!r}, not a group of keys")
        try:
            group[last] = parse_yaml(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {assignment}: the value is not valid YAML; quote it") from None
    return result


def find_file(name: str, folders: Sequence[Path], *, suffix: str = ".yaml", kind: str) -> Path:
    """A path as typed, or a bare name looked up in `folders`; the suffix may be left out.

    Args:
        kind: what kind of file it is, or the option that named it, for the message.
    Raises:
        ConfigError: no such file; names the nearest known one.
    """
    typed = Path(name).expanduser()
    candidates = [typed, typed.with_name(typed.name + suffix)] if typed.name else []
    if typed.name and typed.name == str(typed):
        candidates += [folder / file for folder in folders for file in (name, name + suffix)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = sorted(path.name for folder in folders if folder.is_dir() for path in folder.glob(f"*{suffix}"))
    near = nearest(typed.name.removesuffix(suffix), [file.removesuffix(suffix) for file in known])
    looked = ", ".join(f"{below_root(folder)}/" for folder in folders)
    hint = f" Did you mean '{near}{suffix}'?" if near else ""
    listed = f"{len(known)} are in {looked}" if len(known) > _MOST and near else f"Known: {', '.join(known) or 'none'}"
    raise ConfigError(f"{kind} '{name}': no such file, here or in {looked}.{hint} {listed}")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like `word`, if any does."""
    matches = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown word: a question for the nearest known one, or nothing."""
    near = nearest(word, known)
    return f" Did you mean '{near}'?" if near else ""


def key_in(where: str, key: object) -> str:
    """A key's place for a message: 'file.yaml: optimizer', and 'file.yaml: optimizer.lr' inside it."""
    return f"{where}: {key}" if re.search(r"\.(ya?ml|cfg|pt)$", where) else f"{where}.{key}"


def unknown_key(where: str, key: object, known: Iterable[str], *, owner: str = "") -> str:
    """The message for a key that does not exist."""
    known = sorted(known)
    hint = did_you_mean(str(key), known)
    return f"{key_in(where, key)}: unknown key{owner}.{hint} Known: {', '.join(known) or 'none'}"


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and reads 1e-3 as a number (YAML 1.1 wants 1.0e-3)."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"line {line}: expected a word or number as key, found a group; put quotes around braces")
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise ConfigError(f"line {line}: key '{key}' stands twice (first on line {seen[key]}); keep one of them")
        seen[key] = line
    loader.flatten_mapping(node)
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


def _number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    value = loader.construct_scalar(node)
    try:
        return float(value)
    except ValueError:
        return value


class _Dumper(yaml.SafeDumper):
    """Quotes texts like '1e-3', which `_Loader` would read as numbers."""


_EXPONENT = ("!exponent", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("!exponent", _number)
_Loader.add_implicit_resolver(*_EXPONENT)
_Dumper.add_implicit_resolver(*_EXPONENT)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return value


def below_root(path: Path) -> str:
    """A path for a message: as seen from the checkout, where it is in there."""
    try:
        return str(path.resolve().relative_to(ROOT))
    except ValueError:
        return str(path)
