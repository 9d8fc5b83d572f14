"""What a pickle would import if it were loaded, read off without loading it."""

from __future__ import annotations

import pickletools
import re
from pathlib import Path

import torch

_MOST_BYTES = 2**24
"""Of a file that are looked at; the objects of a larger one begin before."""
_STRINGS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_TRUSTED = {f"torch.{kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")}
_TRUSTED |= {f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "parameter")}
_TRUSTED |= {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "bytearray", "complex")}
_TRUSTED |= {"collections.OrderedDict", "collections.Counter", "torch.nn.parameter.Parameter", "torch.Size"}
"""Of those that torch trusts, what old files of weights name."""


def imported_names(path: Path) -> list[str]:
    """What the pickle in a file of torch.save, old form or new, would import beside what torch trusts.

    Empty where there is none, and of files that are no pickle at all: nothing of them would run.

    >>> imported_names(Path(__file__))
    []
    """
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # of the old form, and of files of other kinds, in any exception
        return _names_in(path)


def _names_in(path: Path) -> list[str]:
    """Of pickles one after another, as torch wrote them before version 1.6; of each until it cannot be read on."""
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES)
    except OSError:
        return []
    names: dict[str, None] = {}
    place = 0
    while place < len(content):
        texts: list[str] = []
        try:
            for code, argument, position in pickletools.genops(content[place:]):
                if code.name in _STRINGS:
                    texts.append(str(argument))
                elif code.name in ("GLOBAL", "INST"):
                    names[str(argument).replace(" ", ".")] = None
                elif code.name == "STACK_GLOBAL":
                    names[".".join(texts[-2:]) or "unknown"] = None
                if code.name == "STOP":
                    place += int(position or 0) + 1
                    break
        except Exception:  # no pickle, or one that is cut off, in any
            break
    return [name for name in names if _DOTTED.fullmatch(name) and name not in _TRUSTED]
