"""The benchmark command: its figures, its two forms of output, and mistakes."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from models import benchmark
from models.flops import count_bflops
from models.layers import SPP, Shortcut, halving_pool
from utils.config import ROOT


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "MAX_SECONDS", 0.0)


class EveryLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.shortcut = Shortcut(8, 4)
        self.pool = halving_pool()
        self.spp = SPP(8, [5, 9])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.spp(self.pool(self.shortcut(self.grouped(x), x[:, :4])))


def test_operations_are_counted_as_darknet_does() -> None:
    """Spec 5.8 by hand, for an image of 12 x 20: maps of 6 x 10, then 3 x 5."""
    conv = 2 * 3 * 3 * 3 * 8 * 60
    grouped = 2 * 3 * 3 * 2 * 8 * 60
    shortcut = 60 * 8
    pools = 2 * 2 * 8 * 15 + (25 + 81) * 8 * 15
    assert count_bflops(EveryLayer(), (12, 20)) == pytest.approx((conv + grouped + shortcut + pools) / 1e9, rel=1e-12)


def test_counting_leaves_the_model_alone() -> None:
    model = EveryLayer().train()
    count_bflops(model, (32, 32))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_json_has_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["cspdet-n", "csppeleenet-prn.yaml", "--img-size", "64", "--device", "cpu", "--json"]) == 0
    ours, pelee = json.loads(capsys.readouterr().out)
    assert {"cfg", "params", "bflops", "img_size", "latency_ms", "fps", "published"} <= ours.keys()
    assert (ours["cfg"], ours["img_size"], ours["published"]) == ("cspdet-n.yaml", 64, None)
    assert ours["latency_ms"] > 0
    assert ours["fps"] == pytest.approx(1e3 / ours["latency_ms"], rel=0.1)
    assert pelee["params"] == 3201726
    assert pelee["published"]["img_size"] == 416
    assert pelee["published"]["AP50"] == 44.5


def test_table_has_a_row_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["cspdet-n", "csppeleenet-prn", "--img-size", "64", "--device", "cpu", "--batch-size", "2"]
    assert benchmark.main(arguments) == 0
    header, ours, pelee = capsys.readouterr().out.splitlines()
    assert header.split() == list(benchmark.COLUMNS)
    assert ours.startswith("cspdet-n.yaml")
    assert "AP50 44.5" in pelee


def test_without_names_every_model_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    monkeypatch.setattr(benchmark, "benchmark", lambda config, **_: seen.append(config.name) or {})
    assert benchmark.main(["--json"]) == 0
    assert seen == sorted(path.stem for path in (ROOT / "cfg").glob("*.yaml"))
    assert len(json.loads(capsys.readouterr().out)) == len(seen)


def test_published_figures_of_the_nearest_size() -> None:
    published = [{"image_size": 416, "AP": 1.0}, {"image_size": 608, "AP": 2.0}]
    assert benchmark.nearest_published([], 416) is None
    assert benchmark.nearest_published(published, 320) == {"img_size": 416, "AP": 1.0}
    assert benchmark.nearest_published(published, 640) == {"img_size": 608, "AP": 2.0}
    assert published[0] == {"image_size": 416, "AP": 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cspdet-m"], "Did you mean 'cspdet-n.yaml'"),
        (["cspdet-n", "--img-size", "300"], "multiples of 32"),
        (["cspdet-n", "--device", "gpu"], "--device gpu"),
    ],
)
def test_mistakes_end_in_one_message(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert message in output.err
