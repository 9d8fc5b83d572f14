"""What is said of a cfg file: every mistake once."""

from __future__ import annotations

import pytest

from tests.models.darknet.common import wrong


def test_one_mistake_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """yolor_p6.cfg has [reorg], 'silu' and parts of another program hundreds of times."""
    text = (
        "[net]\n"
        + 200 * "[convolutional]\nactivation=silu\nstrid=2\n[implicit_add]\nshare_index=4\n[conv]\nshare_index=-{}\n"
    )
    message = wrong(text)
    assert len(message.splitlines()) == 3 and len(message) < 1000
    assert "x.cfg, lines 3, 10, 17 and 197 more: [convolutional] activation: expected one of leaky" in message
    assert message.count("Supported: [net], [convolutional]") == 1
    assert "x.cfg, lines 4, 11, 18 and 197 more: [convolutional] knows no key 'strid'" in caplog.text
    many = wrong("[net]\n" + "".join(f"[part{number}]\n" for number in range(300)))
    assert len(many) < 1500 and many.endswith("x.cfg: and 290 more of other kinds")
