"""Configuration files: YAML to plain values and back, --set, and the words for a mistake in them."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from utils.files import NOT_REGULAR, read_regular
from utils.text import listed, printable, shorten, shorten_message, shown

ROOT = Path(__file__).resolve().parent.parent
"""The project's root: where cfg/ lies."""

_MOST = 20
"""Messages list up to this many files; of more, only the nearest name is given."""
LARGEST_YAML, MOST_VALUES, DEEPEST = 20_000_000, 1_000_000, 50
"""Bytes of a YAML file, its values with aliases written out, and how deep they are nested; the names of 22,000 classes
are 500,000 bytes and 22,000 values."""


class ConfigError(ValueError):
    """A wrong file, key or value of a configuration; the message is meant for the user, and never longer than a page.

    Args:
        lines: what is wrong, where, what was expected and what was found: a line for each mistake, whatever the names
            in it hold. Another ConfigError stands for its lines.
    """

    def __init__(self, *lines: object) -> None:
        self.lines: tuple[str, ...] = ()
        for line in lines:
            self.lines += line.lines if isinstance(line, ConfigError) else (printable(line),)
        super().__init__(shorten_message("\n".join(self.lines)))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, ...]]:
        return type(self), self.lines


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, has a key twice, or holds something else than a mapping.
    """
    try:
        if path.stat().st_size > LARGEST_YAML:
            raise ConfigError(f"{path}: larger than {LARGEST_YAML / 1e6:.0f} MB; is it a YAML file?")
        text = read_regular(path).decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    try:
        value = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path}{', ' if str(error).startswith('line ') else ': '}{error}") from None
    if not isinstance(value, dict):
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{path}: expected 'key: value' lines, found {kind}")
    return value


def parse_yaml(text: str) -> Any:
    """The plain value of a YAML text: mappings, lists, texts, numbers, booleans and null; dates are texts.

    Raises:
        ConfigError: it is not YAML, has a key twice, or is nested deeper or grows larger by aliases than any
            configuration; begins with the line.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{line}not valid YAML ({shorten(getattr(error, 'problem', None) or error, 200)})") from None


def dump_yaml(value: Any, *, lines: bool = False) -> str:
    """YAML text of plain values, keys in their order.

    Args:
        lines: a line for each value, even where a short list or mapping would fit into one.
    """
    flow = False if lines else None
    return yaml.dump(
        to_plain(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=120
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
        told = f"--set {shorten(assignment, 200)}"
        *parents, last = path.strip().split(".")
        if not equals or not path or len(parents) > DEEPEST:
            raise ConfigError(f"{told}: expected key.path=value, for example optimizer.lr=0.01")
        group = result
        for depth, key in enumerate(parents):
            if group.get(key) is None:
                group[key] = {}
            group = group[key]
            if not isinstance(group, dict):
                known = shorten(".".join(parents[: depth + 1]))
                raise ConfigError(f"{told}: '{known}' holds the value {shown(group)}, not a group of keys")
        try:
            group[last] = parse_yaml(text)
        except ConfigError as error:
            raise ConfigError(f"{told}: the value is not valid YAML: {error}; quote it") from None
    return result


def from_home(name: str) -> Path:
    """A path as typed, with '~' as the home folder; a '~name' without such a user stays a name."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def find_file(name: str, folders: Sequence[Path], *, suffix: str = ".yaml", kind: str) -> Path:
    """A path as typed, or a bare name looked up in `folders`; the suffix may be left out.

    Args:
        kind: what kind of file it is, or the option that named it, for the message.
    Raises:
        ConfigError: no such file; names the nearest known one.
    """
    typed = from_home(name)
    candidates = [typed, typed.with_name(typed.name + suffix)] if typed.name else []
    if typed.name and typed.name == str(typed):
        candidates += [folder / file for folder in folders for file in (name, name + suffix)]
    for candidate in candidates:
        if os.path.isfile(candidate):  # unlike Path.is_file, it takes a name that no system can hold as absent
            return candidate
        if os.path.exists(candidate) and not os.path.isdir(candidate):
            raise ConfigError(f"{kind} '{shorten(name, 200)}': {NOT_REGULAR}")
    known = sorted(path.name for folder in folders if folder.is_dir() for path in folder.glob(f"*{suffix}"))
    near = nearest(typed.name.removesuffix(suffix), [file.removesuffix(suffix) for file in known])
    looked = ", ".join(f"{below_root(folder)}/" for folder in folders)
    hint = f" Did you mean '{near}{suffix}'?" if near else ""
    known_here = f"{len(known)} are in {looked}" if len(known) > _MOST and near else f"Known: {listed(known) or 'none'}"
    raise ConfigError(f"{kind} '{shorten(name, 200)}': no such file, here or in {looked}.{hint} {known_here}")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like `word`, if any does."""
    matches = difflib.get_close_matches(str(word)[:100], list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown word: a question for the nearest known one, or nothing."""
    near = nearest(word, known)
    return f" Did you mean '{shorten(near)}'?" if near else ""


def key_in(where: str, key: object) -> str:
    """A key's place for a message: 'file.yaml: optimizer', and 'file.yaml: optimizer.lr' inside it."""
    name = shorten(key)
    return f"{where}: {name}" if re.search(r"\.(ya?ml|cfg|pt)$", where) else f"{where}.{name}"


def unknown_key(where: str, key: object, known: Iterable[str], *, owner: str = "") -> str:
    """The message for a key that does not exist."""
    known = sorted(known)
    hint = did_you_mean(str(key), known)
    return f"{key_in(where, key)}: unknown key{owner}.{hint} Known: {listed(known) or 'none'}"


class _Loader(yaml.SafeLoader):
    """Safe YAML of plain values that refuses duplicate keys and reads 1e-3 as a number (YAML 1.1 wants 1.0e-3).

    Aliases are counted as what they stand for: 200 bytes of them can stand for more values than fit into memory.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._extent: dict[int, tuple[int, int]] = {}
        """Of each finished node: its values, and how deep they are nested."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node of the text; see yaml.composer."""
        line, is_alias = self.peek_event().start_mark.line + 1, self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > DEEPEST:
            raise ConfigError(f"line {line}: nested more than {DEEPEST} deep; no configuration is")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if is_alias and id(node) not in self._extent:
            raise ConfigError(f"line {line}: the alias stands for something that it is a part of itself")
        values, height = self._extent.setdefault(id(node), self._measure(node))
        if values > MOST_VALUES:
            raise ConfigError(f"line {line}: more than {MOST_VALUES:,} values with aliases written out; take them out")
        if self._depth + height > DEEPEST:
            raise ConfigError(f"line {line}: nested more than {DEEPEST} deep with aliases written out")
        return node

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            return 1, 1
        children = node.value if isinstance(node, yaml.SequenceNode) else [each for pair in node.value for each in pair]
        extents = [self._extent[id(child)] for child in children]
        return 1 + sum(values for values, _ in extents), 1 + max((height for _, height in extents), default=0)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; see yaml.constructor, which lets pass what int() and float() raise."""
        try:
            return super().construct_object(node, deep=deep)
        except (ConfigError, yaml.YAMLError):
            raise
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
            kind, line = node.tag.rpartition(":")[2], node.start_mark.line + 1
            raise ConfigError(
                f"line {line}: {shown(node.value)} cannot be read as !!{kind}; put it in quotes"
            ) from None


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
            raise ConfigError(
                f"line {line}: key '{shorten(key)}' stands twice (first on line {seen[key]}); keep one of them"
            )
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
_PLAIN = ("null", "bool", "int", "float", "str", "seq")
_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _PLAIN
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
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
