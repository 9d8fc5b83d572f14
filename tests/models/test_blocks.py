"""What the blocks of backbones and necks can be made of: depthwise convolutions in place of dense ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.blocks import ResidualBlock
from models.build import build_model
from models.config import load_model_config
from models.detector import Detector
from models.fuse import fuse_, pack_
from tests.models.export.models import make_lively_
from utils.config import ConfigError

THIN = ["backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]", "neck.out_channels=[8, 8, 8]"]


def make(name: str, *overrides: str) -> Detector:
    torch.manual_seed(0)
    return build_model(load_model_config(name, [*THIN, *overrides]), 3)


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def test_blocks_alone_become_depthwise() -> None:
    model, plain = make("cspdet-n-dw5"), make("cspdet-n")
    blocks = [name for name, module in model.named_modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 3 + 5 + 2 + 5, "of the backbone's stages, of five stacks of the neck"
    changed = {f"{block}.expand.0.conv" for block in blocks}
    for name, conv in convolutions(model).items():
        if name in changed:
            assert conv.kernel_size == (5, 5)
            assert conv.groups == conv.in_channels == conv.out_channels > 1
        else:
            assert conv.groups == 1
            assert conv.kernel_size != (3, 3) or ".blocks." not in name
    same = set(convolutions(model)) & set(convolutions(plain))
    dense = {name for name in convolutions(plain) if ".blocks." not in name or ".reduce." in name}
    assert same == dense
    assert make("cspdet-n", "backbone.depthwise_blocks=null").state_dict().keys() == plain.state_dict().keys()


def test_a_depthwise_block_sees_two_cells_further_than_a_dense_one() -> None:
    for kernel, seen in ((None, 3), (3, 3), (5, 5), (7, 7)):
        block = ResidualBlock(4, 4, shortcut=False, kernel=kernel, activation="linear").eval()
        image = torch.zeros(1, 4, 15, 15)
        image[:, :, 7, 7] = 1
        with torch.no_grad():
            reached = (block(image) - block(torch.zeros_like(image))).abs().sum(dim=(0, 1)) > 1e-6
        assert reached.sum() == seen**2


def test_a_fused_and_packed_model_computes_the_same() -> None:
    model = make("cspdet-n-dw5")
    make_lively_(model)
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected = model.eval()(images)
        fuse_(model)
        pack_(model)
        for one, two in zip(model(images), expected, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.depthwise_blocks=4", "depthwise_blocks: expected an odd kernel, or null, found 4"),
        ("neck.depthwise_blocks=0", "depthwise_blocks: expected an odd kernel, or null, found 0"),
        ("neck.csp=null", "depthwise_blocks: goes with csp"),
        ("backbone.elastic=true", "elastic: goes without depthwise and depthwise_blocks"),
    ],
)
def test_what_does_not_fit_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("cspdet-n-dw5", override)
