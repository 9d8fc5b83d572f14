"""The benchmark command: its figures, its forms of output, the published tables, and mistakes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

from models.benchmark import measure as measure_module
from models.benchmark import report
from models.benchmark.__main__ import main, parse_args
from models.benchmark.costs import count_bflops, count_conv_values, count_costs, forward_bytes
from models.benchmark.inference import COMMAND, format_section, section_of, with_section
from models.benchmark.measure import Conditions, published_at
from models.benchmark.published import TableRow, load_published
from models.benchmark.selection import families, load_models, row_configs, shipped_models
from models.build import build_model
from models.config import ModelConfig, load_model_config
from models.layers import SPP, Maxout, Shortcut, WeightedShortcut, halving_pool
from utils.config import ROOT, ConfigError

COSTS = Conditions(torch.device("cpu"), latency=False)
ROWS = [(table, row) for table in load_published().tables for row in table.rows]
TOTALS = [row for table, row in ROWS if table.kind == "totals" and row.cfg]


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "MAX_SECONDS", 0.0)


class EveryLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.shortcut = Shortcut(8, 4)
        self.weighted = WeightedShortcut(8, [8, 8], weights_type="per_feature", normalization="relu")
        self.pool = halving_pool()
        self.spp = SPP(8, [5, 9])
        self.maxout = Maxout(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = self.shortcut(self.grouped(x), x[:, :4])
        return self.maxout(self.spp(self.pool(self.weighted(x, x, x))))


def test_operations_are_counted_as_darknet_does() -> None:
    """docs/networks.md, BFLOPs, by hand, for an image of 12 x 20: maps of 6 x 10, then 3 x 5."""
    conv = 2 * 3 * 3 * 3 * 8 * 60
    grouped = 2 * 3 * 3 * 2 * 8 * 60
    shortcuts = 60 * 8 + 2 * 60 * 8
    pools = 2 * 2 * 8 * 15 + (25 + 81) * 8 * 15 + 24 * 15
    expected = (conv + grouped + shortcuts + pools) / 1e9
    assert count_bflops(EveryLayer(), (12, 20)) == pytest.approx(expected, rel=1e-12)
    assert count_conv_values(EveryLayer(), (12, 20)) == 3 * 240 + 8 * 60 + 8 * 60 + 8 * 60


def test_counting_leaves_the_model_alone() -> None:
    model = EveryLayer().train()
    count_bflops(model, (32, 32))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert {p.device.type for p in model.parameters()} == {"cpu"}


class Branches(nn.Module):
    """Of an image of 300 values: 800 in `first`, 800 in `second`, 1600 in the concatenation; all live at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        first = self.first(images)
        second = self.second(first).relu_()
        joined = torch.cat((first, second), dim=1)
        del first, second
        return joined[:, ::2].sum() + self.first(images).sum()  # 800 and no more than before


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_memory_is_what_tensors_hold_at_once(device: str) -> None:
    model = Branches().to(device)
    weights = sum(p.numel() for p in model.parameters())
    found = forward_bytes(model, torch.zeros(1, 3, 10, 10, device=device))
    assert found == 4 * (weights + 300 + 800 + 800 + 1600)


def test_memory_counted_is_memory_held() -> None:
    """On meta, where nothing is computed, and for real."""
    config = load_model_config("cspdet-n", ["image_size=64"])
    model = build_model(config, 3).eval()
    counted = count_costs(config, num_classes=3, batch_size=2)
    real = forward_bytes(model, torch.zeros(2, 3, 64, 64))
    assert counted.memory_mb * 1e6 == real
    held = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert counted.activations_mb * 1e6 == pytest.approx(real - held)


def test_json_has_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cspdet-n", "csppeleenet-prn.yaml", "--img-size", "64", "--device", "cpu", "--json"]) == 0
    ours, pelee = json.loads(capsys.readouterr().out)
    assert {"cfg", "params", "bflops", "img_size", "latency_ms", "fps", "published"} <= ours.keys()
    assert (ours["cfg"], ours["img_size"], ours["published"]) == ("cspdet-n.yaml", 64, None)
    assert ours["latency_ms"] > 0
    assert ours["fps"] == pytest.approx(1e3 / ours["latency_ms"], rel=0.1)
    assert pelee["params"] == 3201726
    assert pelee["published"]["img_size"] == 416
    assert pelee["published"]["AP50"] == 44.5
    assert (pelee["params_diff"], pelee["bflops_diff"]) == (None, None), "of other sizes and of nothing"


def test_a_rectangle_costs_its_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    costs = []
    for size in (["416"], ["416", "192"], ["416", "416"]):
        assert main(["csppeleenet-prn", "--no-latency", "--device", "cpu", "--json", "--img-size", *size]) == 0
        costs += json.loads(capsys.readouterr().out)
    square, half, again = costs
    assert (square["img_size"], half["img_size"]) == (416, [416, 192])
    assert again == square
    assert half["bflops"] == pytest.approx(square["bflops"] * 192 / 416, rel=0.01)
    assert half["bflops_diff"] is None, "nobody published a rectangle"


def test_table_has_a_row_a_model_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["cspdet-n", "peleenet-prn", "csppeleenet", "--no-latency", "--device", "cpu", "--batch-size", "2"]
    assert main(arguments) == 0
    header, ours, small, large, classifier = capsys.readouterr().out.splitlines()
    assert header.split() == ["cfg", "img_size", "params", "bflops", "latency_ms", "fps", "memory_mb", "published"]
    assert ours.split()[:2] == ["cspdet-n.yaml", "416"]
    assert (small.split()[1], large.split()[1]) == ("320", "416")
    assert "4.039 (+0.0%)" in large
    assert "AP50 45.0" in large
    assert "0.893 (+0.6%)" in classifier
    assert "top1 70.9" in classifier


def test_pairs_stand_beside_their_plain_twins(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--pairs", "--no-latency", "--device", "cpu", "csppeleenet"]
    assert main([*arguments, "cspresnet50", "--json"]) == 0
    pelee, same, published = json.loads(capsys.readouterr().out)
    assert (pelee["plain"]["bflops"], pelee["csp"]["bflops"], pelee["ratio"]["bflops"]) == (1.017, 0.893, 0.878)
    assert (same["twin"], published["twin"]) == ("--set model.backbone.csp=null", "resnet50.yaml")
    assert published["plain"]["bflops"] == 9.749
    assert main(arguments) == 0
    assert "CIO, M ratio" in capsys.readouterr().out
    assert main(["--pairs", "yolov3"]) == 2
    assert "has no plain twin" in capsys.readouterr().err


def test_a_changed_model_is_printed_as_it_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """With the figures published for that change, and without those of the file, which are another model's."""
    common = ["csppeleenet", "--no-latency", "--device", "cpu"]
    last, ratio = "model.backbone.csp.fusion=last", "model.backbone.csp.ratio=0.25"
    assert main([*common, "--set", ratio, "--set", last, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["cfg"], row["set"], row["bflops"]) == ("csppeleenet.yaml", [ratio, last], 0.887)
    assert (row["published"]["bflops"], row["published"]["top1"]) == (0.905, 70.8)
    stages = "model.backbone.csp=[null, {ratio: 0.5, split: slice}, {ratio: 0.5, split: slice}, null]"
    assert main([*common, "--set", stages]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith(f"csppeleenet.yaml --set '{stages}'  224  ")
    assert line.endswith("  -")
    assert main([*common, "--set", stages, "--pairs", "--json"]) == 0
    (pair,) = json.loads(capsys.readouterr().out)
    assert pair["plain"]["bflops"] == 1.017
    assert main([*common, "--set", "backbone.csp=null"]) == 2
    assert "--set model.backbone.csp=null" in capsys.readouterr().err
    assert main(["--set", ratio]) == 2
    assert "name at least one" in capsys.readouterr().err


@pytest.mark.parametrize("row", [row for _, row in ROWS if row.cfg and row.changed], ids=lambda row: row.name)
def test_the_model_of_a_changed_row_is_what_the_benchmark_takes(row: TableRow) -> None:
    args = parse_args(shlex.split(row.model))
    (config,) = load_models(args.cfg, args.set)
    assert args.num_classes == row.num_classes
    assert config.backbone == row.config().backbone
    assert config.head == row.config().head


def test_every_family_is_paired_once() -> None:
    names = [config.name for config in families(shipped_models())]
    assert {"cspdarknet53", "cspresnet50", "cspresnext50", "csppeleenet", "cspdensenet-ref", "yolov4-tiny"} <= set(
        names
    )
    assert not {"cspresnext50-mish", "cspresnext50-gamma", "csppeleenet-swish-se", "yolov4", "cspdet-n"} & set(names)


def test_without_names_every_model_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    monkeypatch.setattr(report, "measure", lambda config, _: seen.append(config.name) or {})
    assert main(["--json"]) == 0
    assert list(dict.fromkeys(seen)) == sorted(path.stem for path in (ROOT / "cfg").glob("*.yaml"))
    assert len(json.loads(capsys.readouterr().out)) == len(seen)


def test_published_figures_of_the_nearest_size() -> None:
    published = [{"image_size": 416, "AP": 1.0}, {"image_size": 608, "AP": 2.0}, {"image_size": 608, "fps": 3}]
    assert published_at([], 416) is None
    assert published_at(published, 320) == {"img_size": 416, "AP": 1.0}
    assert published_at(published, 640) == {"img_size": 608, "AP": 2.0, "others": [{"img_size": 608, "fps": 3}]}
    assert published[0] == {"image_size": 416, "AP": 1.0}


def test_figures_are_compared_as_they_were_counted() -> None:
    def off(**figures: object) -> dict[str, float | None]:
        config = load_model_config("yolov3-tiny")
        entry = {"image_size": 416, "bflops": 5.571 / 0.99, **figures}
        row = measure_module.measure(ModelConfig(**{**vars(config), "published": [entry]}), COSTS)
        return {key: row[key] for key in ("params_diff", "bflops_diff")}

    assert off() == {"params_diff": None, "bflops_diff": pytest.approx(-1, abs=0.02)}
    for counted, params in (("weights", 8.845488), ("params", 8.852366), ("floats", 8.858734)):
        assert off(params=params, counted=counted)["params_diff"] == 0


@pytest.mark.parametrize(("table", "row"), ROWS, ids=lambda each: getattr(each, "name", None))
def test_every_row_of_the_published_tables_has_a_model_or_a_reason(table: object, row: TableRow) -> None:
    if row.cfg is not None:
        assert row.config().name == row.cfg
        assert row.bflops is None or len(row.bflops) == len(row.img_size)


QUICK = {"csresnext50", "csmobilenet-v2", "yolov4-tiny", "yolov3-tiny_3l"}


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=[] if row.name in QUICK else [pytest.mark.slow], id=row.name) for row in TOTALS]
)
def test_published_cfgs_come_out_to_the_number(row: TableRow) -> None:
    """Trainable numbers, all numbers of the weights file, BFLOPs (docs/networks.md, Check totals)."""
    (config, *_) = row_configs(row)
    costs = count_costs(config, num_classes=row.num_classes)
    assert (costs.params, costs.floats) == (row.params, row.floats)
    assert costs.bflops == pytest.approx(row.bflops[0], abs=6e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("table", "row"), ROWS, ids=lambda each: getattr(each, "name", None))
def test_costs_are_within_two_percent_or_say_why(table: object, row: TableRow) -> None:
    for index, config in enumerate(row_configs(row) if row.cfg else []):
        found = measure_module.measure(config, Conditions(COSTS.device, row.num_classes, latency=False))
        if row.bflops:
            assert found["bflops"] == pytest.approx(row.bflops[index], abs=6e-4)
        off = max(abs(found[key] or 0) for key in ("params_diff", "bflops_diff"))
        assert off <= 2 or row.note or found["published"]["note"]


def test_the_page_has_every_table_and_names_what_is_far_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With made-up figures in place of measured ones."""

    def made_up(config: ModelConfig, conditions: Conditions) -> dict[str, object]:
        numbers = {"params": 1_000_000, "floats": 3, "bflops": 2.0, "cio": 1.0, "activations_mb": 1.0, "memory_mb": 2.0}
        published = published_at(config.published, config.size[0])
        found = {"params_diff": 2.5 if config.name == "csppeleenet" else None, "bflops_diff": None}
        about = {"cfg": config.file, "img_size": config.size[0], "published": published}
        return {**about, **numbers, **found, "latency_ms": 4.0, "fps": 250.0}

    monkeypatch.setattr(report, "measure", made_up)
    times = "## Inference, then and now\n\nmeasured before"
    (tmp_path / "page.md").write_text(f"# Benchmark\n\n{times}\n\n## Gone\n")
    assert main(["--markdown", str(tmp_path / "page.md"), "--device", "cpu"]) == 0
    assert "Wrote" in capsys.readouterr().out
    page = (tmp_path / "page.md").read_text()
    assert all(f"## {table.title}\n" in page for table, _ in ROWS)
    assert f"{times}\n\n## Other models of cfg/\n" in page
    assert "## Gone" not in page
    assert "| HarDNet-138s |" in page
    assert "- HarDNet-138s: not built: a network of others" in page
    assert (
        "| CSPPeleeNet | csppeleenet | 224 | 1.00 M | 2.83 M (+2.5 %) | 2 | 0.888 | 70.9, 90.2 | 4 | 250 | 2 |" in page
    )
    assert "- CSPPeleeNet (csppeleenet) at 224 px: parameters +2.5 %; no reason known" in page
    assert "| darknet | darknet-ref | 256 | 1,000,000 (published: 7,319,416) |" in page
    assert "| cspresnet50 | resnet50 | 256 | 1.00 M | 1.00 M | 1.00 |" in page
    assert "| cspdet-n | cspdet-n | 416 |" in page


def test_measured_times_go_into_the_page_and_stay_there() -> None:
    table = load_published().inference
    empty = format_section(table, {}, how="")
    assert "Not measured yet." in empty
    assert COMMAND in empty
    assert "| YOLOv3-tiny | yolov3-tiny | 416 | 33.1 | 330 | 37? | 54 (i9-9900K) |  |  |  |  |" in empty
    assert "| Pelee |  | 304 | 38.3 | 106 |  | 7 (i7-6700) |  |  |  |  |" in empty

    times = {"OpenCV, darknet": 20.0, "PyTorch": 16.0, "ONNX Runtime": 10.0, "OpenVINO": 40.0}
    found = {"yolov3-tiny": times, "cspdensenetb-ref-prn": {"PyTorch": 1.0}}
    section = format_section(table, found, how="a machine")
    assert "Measured: a machine." in section
    assert "| 330 | 37? | 54 (i9-9900K) | 20.0 ms, 50 fps (darknet) | 1.25 | 2.00 | 0.50 |" in section
    assert (
        "| CSPDenseNetb Ref.-PRN | cspdensenetb-ref-prn | 320 | 34.2 | 400 | 73 | 102 (i9-9900K) |  |  |  |  |"
        in section
    )

    page = f"# Page\n\n## One\n\nx\n\n{empty}\n\n## Two\n\ny\n"
    filled = with_section(page, section)
    assert filled == page.replace(empty, section)
    assert section_of(filled, table.title) == section
    assert section_of(filled, "Two") == "## Two\n\ny"
    assert with_section(filled, empty) == page
    with pytest.raises(ValueError, match="expected a section '## Inference, then and now'"):
        with_section("# Page\n", section)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["csppeleenet-pnr"], "Did you mean 'csppeleenet-prn.yaml'"),
        (["cspdet-n", "--img-size", "300"], "multiples of 32"),
        (["cspdet-n", "--device", "gpu"], "--device gpu"),
        (["--no-latency", "--device", "cpu", "--markdown", "no/such/folder/page.md"], "folder"),
    ],
)
def test_mistakes_end_in_one_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "make_page", lambda conditions, old: "")
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert message in output.err


def test_wrong_rows_of_a_table_are_refused() -> None:
    for wrong in ({}, {"cfg": "yolov3", "missing": "both"}):
        with pytest.raises(ValueError, match="expected either the key 'cfg' or the key 'missing'"):
            TableRow("x", **wrong)
    with pytest.raises(ConfigError, match=r"published\.counted: expected one of weights, params, floats"):
        load_model_config("yolov3", ["published=[{image_size: 3, params: 1, counted: all}]"])
