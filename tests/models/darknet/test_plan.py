"""The layers of a cfg: sizes that no memory holds, strides, and darknet's defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.build import build_model, check_image_size
from models.config import load_model_config
from models.darknet.cfg import parse_cfg
from models.darknet.plan import plan_layers
from tests.models.darknet.common import TINY
from utils.config import ConfigError


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("filters=8", "filters=2147483647\n[conv]\nfilters=2147483647", "numbers; expected at most 2,147,483,647"),
        ("num=2", "num=2147483647", "anchors: expected num=2147483647 pairs"),
        ("width=64", "width=2147483647", "expected a width and height above 0, and up to 65,536"),
        ("[maxpool]", "[upsample]\nstride=2147483647\n[maxpool]", "which no memory holds"),
        ("classes=2", "classes=0", "classes: expected 1 or more, found 0"),
        ("[maxpool]", "[route]\nlayers=-1,-1\n" * 60 + "[maxpool]", "which no memory holds"),
    ],
)
def test_sizes_that_no_memory_holds_are_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    path.write_text(TINY.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        load_model_config(path)


def test_a_classifier_takes_its_own_size_where_its_stride_does_not_divide_it(tmp_path: Path) -> None:
    """cspx-p7-mish-omega.cfg: 320 px, stride 128, maps of 3 x 3 at the end."""
    convs = "".join("[conv]\nfilters=4\nsize=3\nstride=2\npad=1\nactivation=leaky\n" for _ in range(7))
    path = tmp_path / "p7.cfg"
    path.write_text(
        f"[net]\nwidth=320\nheight=320\n{convs}[avgpool]\n[conv]\nfilters=5\nactivation=linear\n[softmax]\n"
    )
    model = build_model(load_model_config(path), 5).eval()
    assert (model.backbone.features.strides, model.stride) == ((128,), 64)
    assert model.predict(torch.zeros(1, 3, 320, 320)).shape == (1, 5)
    with pytest.raises(ConfigError, match=r"expected multiples of 64, .* found 318 x 318; the nearest is 320 x 320"):
        check_image_size(model, (318, 318), where="x")


def test_defaults_of_dropout_are_darknets() -> None:
    text = (
        "[net]\nwidth=32\nheight=32\n[dropout]\n[dropout]\ndropblock=1\ndropblock_size_rel=0.5\ndropblock_size_abs=3\n"
    )
    first, second = (layer.module for layer in plan_layers(parse_cfg(text, where="x.cfg")))
    assert first.p == 0.2
    assert second.size == 3, "of both sizes the absolute one counts"
