"""Darknet's weights files: bytes in and out, both headers, parts of networks, and what is said of those that misfit."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from models.build import build_model
from models.config import load_model_config
from models.darknet.header import WeightsHeader
from models.darknet.weights import (
    classes_in_file,
    count_floats_in,
    load_weights_,
    save_weights,
    stored_layers,
)
from models.pretrained import start_from_
from tests.models.darknet.cfgs import NETWORKS, Cfg
from tests.models.darknet.common import build_text, count_floats, randomise_, saved
from utils.config import ConfigError

SMALL = NETWORKS["yolov4-tiny"].cfg(size=64, divide=16)


def small(num_classes: int | None = None, *, seed: int = 0):
    """A thin yolov4-tiny with random weights."""
    model = build_text(SMALL.text(), num_classes=num_classes)
    randomise_(model, seed=seed)
    return model


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.weights"
    for content, message in ((b"", "found 0 bytes"), (WeightsHeader().pack(), "expected .* numbers for this model")):
        path.write_bytes(content)
        for partial in (False, True):
            with pytest.raises(ConfigError, match=message):
                load_weights_(small(), path, partial=partial)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_weights_(small(), tmp_path / "no.weights")


def test_order_of_the_numbers(tmp_path: Path) -> None:
    """beta, gamma, mean, variance, weights; then bias, weights of the convolution before the yolo layer."""
    cfg = Cfg(32)
    cfg.conv(2, 3, 2)
    cfg.yolo("0", "5,6", classes=1)
    model = build_text(cfg.text())
    path = tmp_path / "x.weights"
    floats = np.arange(1, 1 + 8 + 54 + 6 + 12, dtype="<f4")
    path.write_bytes(struct.pack("<iiiQ", 0, 2, 0, 32013312) + floats.tobytes())
    found = load_weights_(model, path)
    assert found.header == WeightsHeader(0, 2, 0, 32013312)
    conv, norm = model.backbone.layers[0].conv, model.backbone.layers[0].norm
    assert norm.bias.tolist() == [1, 2]
    assert norm.weight.tolist() == [3, 4]
    assert norm.running_mean.tolist() == [5, 6]
    assert norm.running_var.tolist() == [7, 8]
    assert conv.weight.flatten().tolist() == list(range(9, 63))
    assert model.head.convs[0].bias.tolist() == list(range(63, 69))
    assert model.head.convs[0].weight.flatten().tolist() == list(range(69, 81))
    save_weights(model, tmp_path / "again.weights")
    assert (tmp_path / "again.weights").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "header",
    [
        WeightsHeader(0, 2, 5, 2**40),
        WeightsHeader(0, 1, 0, 77, wide=False),
        WeightsHeader(1, 0, 0, 5),
        WeightsHeader(0, 2, 0, 9, wide=False),
        WeightsHeader(0, 1, 0, 9, wide=True),
    ],
)
def test_both_headers_round_trip_to_the_byte(header: WeightsHeader, tmp_path: Path) -> None:
    """Also those whose length is not the one that their version promises."""
    path, again = tmp_path / "a.weights", tmp_path / "b.weights"
    save_weights(small(), path, header=header)
    assert path.stat().st_size == 4 * count_floats(small()) + (20 if header.wide else 16)
    model = build_text(SMALL.text())
    assert load_weights_(model, path).header == header
    save_weights(model, again)
    assert again.read_bytes() == path.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.weights", "b.weights"]


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        (WeightsHeader(0, 2, 5, 9), -4, "version 0.2 has 20 bytes, so the file lacks 4 bytes; download"),
        (WeightsHeader(1, 0, 0, 9), -4, "version 1.0 has 20 bytes, so the file lacks 4 bytes"),
        (WeightsHeader(0, 1, 0, 9, wide=False), 4, "version 0.1 has 16 bytes, so the file has 4 bytes too many"),
    ],
)
@pytest.mark.parametrize("part", [None, 7])
def test_a_file_that_is_4_bytes_off_is_not_read_shifted_by_one(
    header: WeightsHeader, size: int, message: str, part: int | None, tmp_path: Path
) -> None:
    """The other length of the header would fit, but the variances fit the promised one; also for .conv.N files."""
    path = tmp_path / "x.weights"
    save_weights(small(), path, header=header, count=part)
    data = path.read_bytes()
    path.write_bytes(data[:size] if size < 0 else data + bytes(size))
    for partial in (False, True) if part is None else (True,):
        model = small(seed=1)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(ConfigError, match=message):
            load_weights_(model, path, partial=partial)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_file_4_bytes_short_without_variances_is_refused(tmp_path: Path) -> None:
    """Nothing in such a network says which header is right, so the version does."""
    cfg = Cfg(32)
    cfg.plain_conv(2)
    cfg.yolo("0", "5,6", classes=1)
    path = saved(build_text(cfg.text()), tmp_path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ConfigError, match="lacks 4 bytes"):
        load_weights_(build_text(cfg.text()), path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused_with_the_layer(value: float, tmp_path: Path) -> None:
    model = small()
    model.backbone.layers[2].conv.weight.data[3, 2, 1, 0] = value
    path = saved(model, tmp_path)
    for partial in (False, True):
        with pytest.raises(ConfigError, match=r"layer 2, \[convolutional\] \(line \d+\): 1 of its .* NaN or infinite"):
            load_weights_(small(), path, partial=partial)


def test_variances_below_zero_are_refused_and_denormal_ones_are_not(tmp_path: Path) -> None:
    """-7e-44 and the like stand in good files."""
    model = small()
    variances = model.backbone.layers[1].norm.running_var
    variances[0] = -7e-44
    load_weights_(small(), saved(model, tmp_path))
    variances[0] = -0.25
    with pytest.raises(ConfigError, match=r"layer 1, .*: expected variances from 0 on, found -0.25"):
        load_weights_(small(), saved(model, tmp_path))


def test_norms_that_add_something_else_are_refused(tmp_path: Path) -> None:
    model = small()
    model.backbone.layers[1].norm.eps = 1e-3
    with pytest.raises(ConfigError, match=r"norm_eps: in darknet's files norms add 1e-05 .*, in this model 0.001"):
        saved(model, tmp_path)


def test_weighted_shortcuts_store_their_weights(tmp_path: Path) -> None:
    text = (
        "[net]\nwidth=8\nheight=8\n[conv]\nfilters=4\nactivation=linear\n[maxpool]\nsize=3\n"
        "[shortcut]\nfrom=0\nweights_type=per_channel\n"
    )
    first, second = build_text(text), build_text(text)
    torch.nn.init.normal_(first.layers[2].weights)
    assert count_floats(first) == 4 + 12 + 8
    load_weights_(second, saved(first, tmp_path))
    assert torch.equal(first.layers[2].weights, second.layers[2].weights)


def cut(path: Path, floats: int) -> Path:
    """The file with so many numbers."""
    data = path.read_bytes()
    content = data[: 20 + 4 * floats] + bytes(max(0, 4 * floats + 20 - len(data)))
    other = path.with_name("cut.weights")
    other.write_bytes(content)
    return other


def test_the_first_layers_alone(tmp_path: Path) -> None:
    source, model = small(), small(seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers = stored_layers(source)
    part = cut(saved(source, tmp_path), sum(layer.count for layer in layers[:7]))
    with pytest.raises(ConfigError, match=r"The file ends in layer 12, \[convolutional\] \(line \d+\)"):
        load_weights_(model, part)
    found = load_weights_(model, part, partial=True)
    assert (found.layers, found.of, found.skipped) == (7, len(layers), 0)
    assert found.last.startswith("layer 10, [convolutional]")
    assert model.darknet_header is None
    for index in range(11):
        state, other = (each.backbone.layers[index].state_dict() for each in (model, source))
        assert all(torch.equal(state[key], other[key]) for key in state if "num_batches" not in key)
    assert torch.equal(model.backbone.layers[12].conv.weight, before["backbone.layers.12.conv.weight"])


def test_misfits_say_how_many_numbers_and_where(tmp_path: Path) -> None:
    model = small()
    path, floats = saved(model, tmp_path), count_floats(small())
    with pytest.raises(ConfigError) as caught:
        load_weights_(model, cut(path, floats - 5), partial=True)
    assert f"expected {floats:,} numbers for this model, found {floats - 5:,}." in str(caught.value)
    assert "The file ends in layer 36, [convolutional] (line" in str(caught.value)
    assert "5 numbers early" in str(caught.value)
    with pytest.raises(ConfigError, match=r"3 numbers are left after the last, layer 36, \[convolutional\]"):
        load_weights_(model, cut(path, floats + 3))
    other = tmp_path / "odd.weights"
    for content, message in (
        (path.read_bytes()[:-2], "cut off or changed"),
        (b"PK\x03\x04" + bytes(100), "is it a file of another program"),
    ):
        other.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            load_weights_(model, other)


def test_the_layer_where_another_network_begins_is_named(tmp_path: Path) -> None:
    """The file is of a network with wider layers from layer 10 on: variances there are other numbers, also negative."""
    lines = SMALL.text().splitlines()
    wide = build_text(SMALL.text().replace("filters=8", "filters=12"))
    randomise_(wide)
    with pytest.raises(ConfigError, match=r"It goes wrong in layer (\d+), \[convolutional\] \(line (\d+)\)") as caught:
        load_weights_(small(), saved(wide, tmp_path))
    assert "variances are negative" in str(caught.value)
    number = int(str(caught.value).split("(line ")[1].split(")")[0])
    assert lines[number - 1] == "[convolutional]"


def test_other_classes_load_all_but_the_last_convolutions(tmp_path: Path) -> None:
    source = small()
    path = saved(source, tmp_path)
    assert classes_in_file(small(3), count_floats_in(path)) == 80
    model = small(3, seed=2)
    head = model.head.convs[0].weight.clone()
    with pytest.raises(ConfigError):
        load_weights_(model, path)
    found = load_weights_(model, path, partial=True)
    assert (found.layers, found.skipped) == (found.of - 2, 2)
    assert torch.equal(model.head.convs[0].weight, head)
    for one, two in zip(model.backbone.parameters(), source.backbone.parameters(), strict=True):
        assert torch.equal(one, two)


def test_training_starts_from_darknet_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = small()
    path = saved(source, tmp_path)
    conv = cut(path, sum(layer.count for layer in stored_layers(source)[:15])).rename(tmp_path / "tiny.conv.26")
    with caplog.at_level("INFO"):
        start_from_(small(3, seed=1), conv)
        start_from_(small(3, seed=1), path)
    assert "15 of 21 layers loaded" in caplog.text
    assert "6 layers are not in the file" in caplog.text
    assert "2 layers are for other classes" in caplog.text
    with pytest.raises(ConfigError, match=r"expected a checkpoint \(.pt\) or a darknet file"):
        start_from_(small(), tmp_path / "x.bin")


def test_our_models_read_the_same_files(tmp_path: Path) -> None:
    """A model of ours by the name of its convolutions; misfits name those."""
    config = load_model_config("cspdet-n", ["backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]"])
    first, second = (build_model(config, 2) for _ in range(2))
    randomise_(first)
    path = saved(first, tmp_path)
    load_weights_(second, path)
    for name, tensor in second.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, first.state_dict()[name]), name
    assert classes_in_file(build_model(config, 80), count_floats_in(path)) == 2
    with pytest.raises(ConfigError, match=r"The file ends in 'head\.convs\.2' \(layer \d+ of those with weights\)"):
        load_weights_(second, cut(path, count_floats(first) - 2))
