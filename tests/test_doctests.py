"""The examples in docstrings give what they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.test_imports import FILES
from utils.config import ROOT

WITH_EXAMPLES = [path.relative_to(ROOT) for path in FILES if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=str)
def test_examples(path: Path) -> None:
    result = doctest.testmod(importlib.import_module(".".join(path.with_suffix("").parts)))
    assert result.attempted > 0
    assert result.failed == 0, "doctest has printed what differs"


def test_the_types_that_cross_folders_have_examples() -> None:
    assert {Path("utils/boxes.py"), Path("utils/structures.py")} <= set(WITH_EXAMPLES)
