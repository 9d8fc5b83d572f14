"""What several tests share: the real data where it is at hand, tiny data sets in every format, small models."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def _find_shared() -> Path | None:
    for parent in Path(__file__).resolve().parents:
        if (parent / "shared" / "data").is_dir():
            return parent / "shared"
    return None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and weights; CI has it, users of the project do not."""
    folder = _find_shared()
    if folder is None:
        pytest.skip("no shared/ folder beside the project")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
