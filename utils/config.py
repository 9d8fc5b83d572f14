"""YAML to constructors: the constructor is the schema, and every mistake names file, key, problem and remedy."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

ROOT = Path(__file__).resolve().parent.parent
"""The project's root: where cfg/ lies."""

T = TypeVar("T")
LISTED = 20
"""Of more files than that a message names the nearest alone, where there is one."""


class ConfigError(ValueError):
    """A wrong file, key or value of a configuration; the message is meant for the user."""


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


def parse_yaml(text: str) -> Any:
    """The value of one YAML text, read as `load_yaml` reads files (for --set)."""
    return yaml.load(text, _Loader)


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
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{path}: expected 'key: value' lines, found {found}")
    return value


def find_file(name: str, folders: Sequence[Path], *, suffix: str = ".yaml", what: str) -> Path:
    """A path as typed, or a bare name looked up in `folders`; the suffix may be left out.

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
    looked = ", ".join(_show(folder) for folder in folders)
    hint = f" Did you mean '{near}{suffix}'?" if near else ""
    listed = f"{len(known)} are in {looked}" if len(known) > LISTED and near else f"Known: {', '.join(known) or 'none'}"
    raise ConfigError(f"{what} '{name}': no such file, here or in {looked}.{hint} {listed}")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like `word`, if any does."""
    matches = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def key_in(where: str, key: object) -> str:
    """A key's place for a message: 'file.yaml: optimizer', and 'file.yaml: optimizer.lr' inside it."""
    return f"{where}: {key}" if re.search(r"\.(ya?ml|cfg|pt)$", where) else f"{where}.{key}"


def unknown_key(where: str, key: object, known: Iterable[str], *, owner: str = "") -> str:
    """The message for a key that does not exist."""
    known = sorted(known)
    near = nearest(str(key), known)
    hint = f" Did you mean '{near}'?" if near else ""
    return f"{key_in(where, key)}: unknown key{owner}.{hint} Known: {', '.join(known) or 'none'}"


def build(kinds: Mapping[str, Callable[..., T]], spec: Any, *, where: str, **derived: Any) -> T:
    """The part that a YAML mapping describes: `kinds[spec['type']](**derived, **rest of spec)`.

    Args:
        kinds: the table of types.
        spec: mapping with 'type'; its other keys are keyword arguments of that type.
        where: file and key, for messages.
        derived: arguments that the program knows and YAML must not give.
    Raises:
        ConfigError: every wrong key and value of `spec`, at once.
    """
    maker, checked = check_spec(kinds, spec, where=where, derived=derived)
    accepted = inspect.signature(maker).parameters
    derived = {key: value for key, value in derived.items() if key in accepted}
    try:
        return maker(**derived, **checked)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def check_spec(
    kinds: Mapping[str, Callable[..., T]], spec: Any, *, where: str, derived: Iterable[str] = ()
) -> tuple[Callable[..., T], dict[str, Any]]:
    """What `build` would call, and with which arguments beside the derived ones; nothing is built.

    Args:
        derived: names of arguments that do not come from YAML.
    Raises:
        ConfigError: every wrong key and value of `spec`, at once.
    """
    if not isinstance(spec, Mapping):
        raise ConfigError(f"{where}: expected a mapping with the key 'type' (one of {_list(kinds)}), found {spec!r}")
    kind = spec.get("type")
    if not isinstance(kind, str) or kind not in kinds:
        if kind is None:
            close = next((key for key in spec if nearest(str(key), ["type"])), None)
            hint = f" Did you mean 'type' by '{close}'?" if close else ""
            raise ConfigError(f"{key_in(where, 'type')}: this key is missing.{hint} Choose one of: {_list(kinds)}")
        near = nearest(str(kind), kinds)
        hint = f" Did you mean '{near}'?" if near else ""
        raise ConfigError(f"{key_in(where, 'type')}: '{kind}' is unknown.{hint} Known: {_list(kinds)}")
    arguments = {key: value for key, value in spec.items() if key != "type"}
    owner = f" for type '{kind}'"
    checked = check_arguments(
        kinds[kind], arguments, where=where, owner=owner, derived=set(derived), also_known=("type",)
    )
    return kinds[kind], checked


def to_dataclass(cls: type[T], mapping: Any, *, where: str) -> T:
    """`cls` from a YAML mapping, nested dataclasses too.

    Raises:
        ConfigError: every wrong key and value, at once.
    """
    if mapping is None:
        mapping = {}
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where}: expected a mapping, found {mapping!r}. Known keys: {_list(_parameters(cls))}")
    checked = check_arguments(cls, mapping, where=where)
    try:
        return cls(**checked)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def check_arguments(
    maker: Callable[..., Any],
    arguments: Mapping,
    *,
    where: str,
    owner: str = "",
    derived: set[str] | None = None,
    also_known: Iterable[str] = (),
) -> dict[str, Any]:
    """Arguments for `maker`, converted to its type hints.

    Args:
        derived: parameters that do not come from the configuration.
        also_known: keys beside the parameters that a misspelt one may have meant.
    Raises:
        ConfigError: unknown and missing keys and values of a wrong type, all of them in one message.
    """
    parameters = {name: p for name, p in _parameters(maker).items() if name not in (derived or set())}
    hints = _hints(maker)
    problems, checked = [], {}
    for key, value in arguments.items():
        if key not in parameters:
            problems.append(unknown_key(where, key, (*parameters, *also_known), owner=owner))
            continue
        try:
            checked[key] = check_value(value, hints.get(key, Any), where=key_in(where, key))
        except ConfigError as error:
            problems.append(str(error))
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            wanted = _describe(hints.get(name, Any))
            problems.append(f"{key_in(where, name)}: this key is missing{owner}; expected {wanted}")
    if problems:
        raise ConfigError("\n".join(problems))
    return checked


def check_value(value: Any, hint: Any, *, where: str) -> Any:
    """`value` converted to `hint`, or a ConfigError that says what was expected."""
    target = _dataclass_in(hint)
    if target is not None and isinstance(value, Mapping):
        return to_dataclass(target, value, where=where)
    if target is not None and dataclasses.is_dataclass(value):
        return value
    if isinstance(value, bool) and (word := "on" if value else "off") in _words(hint):
        return word  # YAML 1.1 reads these two words as true and false
    if _refuses_bool(hint) and isinstance(value, bool):
        raise ConfigError(f"{where}: expected {_describe(hint)}, found {value!r}")
    try:
        return _adapter(hint).validate_python(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        inner = "".join(f"[{part}]" for part in first["loc"] if isinstance(part, int))
        raise ConfigError(f"{where}{inner}: expected {_describe(hint)}, found {value!r}") from None


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
        place = result
        for depth, key in enumerate(parents):
            if place.get(key) is None:
                place[key] = {}
            place = place[key]
            if not isinstance(place, dict):
                known = ".".join(parents[: depth + 1])
                raise ConfigError(f"--set {assignment}: '{known}' holds the value {place!r}, not a group of keys")
        try:
            place[last] = parse_yaml(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {assignment}: the value is not valid YAML; quote it") from None
    return result


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


def dump_yaml(value: Any) -> str:
    """YAML text of plain values, keys in their order."""
    options = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": 120}
    return yaml.dump(to_plain(value), Dumper=_Dumper, **options)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return value


def _parameters(maker: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in inspect.signature(maker).parameters.items() if p.kind in keyword}


def _hints(maker: Callable[..., Any]) -> dict[str, Any]:
    function = maker.__init__ if inspect.isclass(maker) and not dataclasses.is_dataclass(maker) else maker
    return typing.get_type_hints(function)


def _options(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _words(hint: Any) -> tuple[Any, ...]:
    """The values that a Literal lists; none for other hints."""
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _dataclass_in(hint: Any) -> type | None:
    return next((option for option in _options(hint) if dataclasses.is_dataclass(option)), None)


def _refuses_bool(hint: Any) -> bool:
    return bool not in _options(hint) and any(option in (int, float) for option in _options(hint))


def _adapter(hint: Any) -> pydantic.TypeAdapter:
    if _dataclass_in(hint) is not None:  # pydantic brings its own rules for the configuration of dataclasses
        return pydantic.TypeAdapter(hint)
    return pydantic.TypeAdapter(hint, config=pydantic.ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))


def _describe(hint: Any) -> str:
    """A type hint in words."""
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    if hint in words:
        return words[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if len(_options(hint)) > 1:
        return " or ".join(_describe(option) for option in _options(hint))
    if origin in (list, tuple, Sequence) or hint in (list, tuple):
        items = [a for a in arguments if a is not Ellipsis]
        if origin is tuple and arguments and Ellipsis not in arguments:
            return f"a list of {len(items)} values ({', '.join(_describe(item) for item in items)})"
        return f"a list, each entry {_describe(items[0])}" if items else "a list"
    if origin is dict or hint is dict:
        return "a mapping"
    if dataclasses.is_dataclass(hint):
        return f"a mapping with the keys {_list(_parameters(hint))}"
    return getattr(hint, "__name__", str(hint))


def _list(known: Iterable[str]) -> str:
    return ", ".join(known)


def _show(folder: Path) -> str:
    try:
        return f"{folder.relative_to(ROOT)}/"
    except ValueError:
        return f"{folder}/"
