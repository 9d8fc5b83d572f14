"""The constructor is the schema: YAML values to the arguments of functions, classes and dataclasses.

Every mistake names file, key, problem and remedy, and all mistakes of a mapping are told at once.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import pydantic

from utils.config import ConfigError, did_you_mean, key_in, nearest, unknown_key
from utils.text import listed, shorten, shown

T = TypeVar("T")

_MOST = 20
"""Wrong keys and values that one message names."""


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
    """The callable and the checked arguments that `build` would use; nothing is built.

    Args:
        derived: names of arguments that do not come from YAML.
    Raises:
        ConfigError: every wrong key and value of `spec`, at once.
    """
    if not isinstance(spec, Mapping):
        raise ConfigError(
            f"{where}: expected a mapping with the key 'type' (one of {listed(kinds)}), found {shown(spec)}"
        )
    kind = spec.get("type")
    if not isinstance(kind, str) or kind not in kinds:
        if kind is None:
            close = next((key for key in spec if nearest(str(key), ["type"])), None)
            hint = f" Did you mean 'type' by '{close}'?" if close else ""
            raise ConfigError(f"{key_in(where, 'type')}: this key is missing.{hint} Choose one of: {listed(kinds)}")
        hint = did_you_mean(str(kind), kinds)
        raise ConfigError(f"{key_in(where, 'type')}: '{shorten(kind)}' is unknown.{hint} Known: {listed(kinds)}")
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
        raise ConfigError(
            f"{where}: expected a mapping, found {shown(mapping)}. Known keys: {listed(_parameters(cls))}"
        )
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
    problems: list[str] = []
    checked: dict[str, Any] = {}
    for key, value in arguments.items():
        if len(problems) >= _MOST:
            problems.append("and more; correct these first")
            break
        if key not in parameters:
            problems.append(unknown_key(where, key, (*parameters, *also_known), owner=owner))
            continue
        try:
            checked[key] = check_value(value, hints.get(key, Any), where=key_in(where, key))
        except ConfigError as error:
            problems += error.lines
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            wanted = _describe(hints.get(name, Any))
            problems.append(f"{key_in(where, name)}: this key is missing{owner}; expected {wanted}")
    if problems:
        raise ConfigError(*problems)
    return checked


def check_value(value: Any, hint: Any, *, where: str) -> Any:
    """`value` converted to `hint`, or a ConfigError that says what was expected."""
    target = _dataclass_in(hint)
    if target is not None and isinstance(value, Mapping):
        return to_dataclass(target, value, where=where)
    if target is not None and dataclasses.is_dataclass(value):
        return value
    entries = _entries_of_dataclasses(hint)
    if entries is not None and isinstance(value, list):
        return _check_entries(value, entries, where)
    if isinstance(value, bool) and (word := "on" if value else "off") in _words(hint):
        return word  # YAML 1.1 reads these two words as true and false
    if _refuses_bool(hint) and isinstance(value, bool):
        raise ConfigError(f"{where}: expected {_describe(hint)}, found {shown(value)}")
    try:
        return _adapter(hint).validate_python(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        inner = "".join(f"[{part}]" for part in first["loc"] if isinstance(part, int))
        raise ConfigError(f"{where}{inner}: expected {_describe(hint)}, found {shown(value)}") from None


def _check_entries(values: list, hint: Any, where: str) -> list:
    """The entries of a list converted to `hint`; every mistake in them at once."""
    checked: list[Any] = []
    problems: list[str] = []
    for index, value in enumerate(values):
        try:
            checked.append(check_value(value, hint, where=f"{where}[{index}]"))
        except ConfigError as error:
            problems += error.lines
    if problems:
        raise ConfigError(*problems[:_MOST])
    return checked


def require(condition: bool, name: str, expected: str, value: object) -> None:
    """Refuse a value in a constructor.

    Args:
        name: of the argument; expected: what it should be, for the message.
    Raises:
        ValueError: the condition does not hold.
    """
    if not condition:
        raise ValueError(f"{name}: expected {expected}, found {shown(value)}")


def height_and_width(image_size: int | list[int], *, least: int = 1) -> tuple[int, int]:
    """(height, width) of the key `image_size`: one side in pixels, or [height, width].

    Raises:
        ValueError: neither, or a side below `least` pixels.

    >>> height_and_width(320), height_and_width([256, 448])
    ((320, 320), (256, 448))
    """
    sides = [image_size] * 2 if isinstance(image_size, int) else image_size
    fits = len(sides) == 2 and min(sides) >= least
    require(fits, "image_size", f"one side or [height, width], at least {least} pixels", image_size)
    return sides[0], sides[1]


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
    return next((each for each in _options(hint) if isinstance(each, type) and dataclasses.is_dataclass(each)), None)


def _entries_of_dataclasses(hint: Any) -> Any:
    """The hint of a list's entries where they are dataclasses, as in `list[Each | None]`; else None."""
    lists = [option for option in _options(hint) if typing.get_origin(option) is list]
    return next((item for each in lists for item in typing.get_args(each) if _dataclass_in(item)), None)


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
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return f"a mapping with the keys {listed(_parameters(hint))}"
    return getattr(hint, "__name__", str(hint))
