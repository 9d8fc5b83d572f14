"""Keys of a cfg: those that darknet reads are refused or read, and numbers are those that it can hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.darknet.cfg import parse_cfg
from tests.models.darknet.common import TINY, wrong


@pytest.mark.parametrize(
    ("section", "key", "effect", "allowed"),
    [
        ("convolutional", "share_index=-3", "weights of another layer", None),
        ("convolutional", "xnor=1", "signs of weights and inputs", "xnor=0"),
        ("convolutional", "binary=1", "signs of the weights", "binary=00"),
        ("convolutional", "coordconv=1", "position into two of the channels", "coordconv=0"),
        ("convolutional", "dontload=1", "the weights file has no numbers of this layer", "dontload=0"),
        ("maxpool", "maxpool_zero_nonmax=1", "clears all but the largest cells", "maxpool_zero_nonmax=0"),
        ("maxpool", "antialiasing=1", "blurs the map", "antialiasing=0"),
        ("shortcut", "alpha=0.5", "multiplies the map before the sum", "alpha=1.0"),
        ("shortcut", "beta=2", "multiplies the source before the sum", "beta=1"),
        ("softmax", "tree=9k.tree", "its classes form a tree", None),
        ("softmax", "temperature=3", "divides the logits", "temperature=1.00"),
    ],
)
def test_keys_that_darknet_reads_are_refused_never_ignored(
    section: str, key: str, effect: str, allowed: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    text = f"[net]\nwidth=32\nheight=32\n[{section}]\n"
    message = wrong(text + key)
    assert message.startswith(f"x.cfg, line 5: [{section}] {key} is not supported: ")
    assert effect in message and "run this network with darknet, or take another one" in message
    assert "leave" not in message, "the network would be another one without the key"
    if allowed is not None:
        assert len(parse_cfg(text + allowed, where="x.cfg")) == 2
    assert caplog.text == ""


def test_keys_of_both_darknets_that_change_nothing_are_no_mistake(caplog: pytest.LogCaptureFixture) -> None:
    text = "[net]\nwidth=32\nheight=32\nnotruth=1\n[conv]\nstream=1\nwait_stream=0\n[route]\nlayers=-1\nstream=2"
    assert len(parse_cfg(text, where="x.cfg")) == 3
    assert caplog.text == ""


@pytest.mark.parametrize(
    "value", ["99999999999999999999", "9" * 5000, "1_000", "0x10", "2147483648", "٣", "1e3", "", "nan"]
)
def test_whole_numbers_are_those_of_darknet(value: str, tmp_path: Path) -> None:
    """What Python takes for a number, darknet's 32 bits do not hold."""
    message = wrong(TINY.replace("filters=8", f"filters={value}"))
    assert message.startswith("x.cfg, line 8: [convolutional] filters: expected a whole number, found '")
    assert len(message) < 200


@pytest.mark.parametrize("value", ["nan", "inf", "1e999", "1_0", "-infinity"])
def test_numbers_are_finite(value: str) -> None:
    assert "scale_x_y: expected a number, found" in wrong(TINY.replace("1.05", value))
    assert "anchors: expected numbers with commas between" in wrong(TINY.replace("10,20", f"10,{value}"))
