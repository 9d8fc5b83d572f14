"""The network of a cfg: published totals, each layer's rule against NumPy, training on other classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.benchmark.costs import count_bflops
from models.build import build_criterion
from models.darknet.graph import DarknetGraph
from tests.models.darknet.cfgs import NETWORKS, Cfg
from tests.models.darknet.common import build_text, count_floats, randomise_
from utils.structures import Targets


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_floats_and_bflops_are_the_published_ones(name: str) -> None:
    network = NETWORKS[name]
    with torch.device("meta"):
        model = build_text(network.cfg().text())
    graph = model if isinstance(model, DarknetGraph) else model.backbone
    assert len(graph.layers) == network.layers
    assert count_floats(model) == network.floats
    with torch.device("meta"):
        assert count_bflops(model, (network.size, network.size)) == pytest.approx(network.bflops, abs=0.00051)


def run(layers: str, *, size: tuple[int, int] = (6, 8), channels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """What some layers make of a random map (C, H, W): the map and the result.

    The map is the output of a linear 1x1 convolution (layer 0) of the image.
    """
    text = f"[net]\nwidth={size[1]}\nheight={size[0]}\n[conv]\nfilters={channels}\nactivation=linear\n{layers}"
    graph = build_text(text)
    randomise_(graph)
    graph.eval()
    seen: list[Tensor] = []
    graph.layers[0].register_forward_hook(lambda *arguments: seen.append(arguments[2].clone()))
    with torch.no_grad():
        (found,) = graph(torch.randn(1, 3, *size))
    return seen[0][0].numpy(), found[0].numpy()


def windows(x: np.ndarray, size: int, stride: int, padding: int, reduce: str) -> np.ndarray:
    """Darknet's pool by its formula (darknet src/maxpool_layer.c), cell by cell."""
    _, height, width = x.shape
    rows, columns = ((side + padding - size) // stride + 1 for side in (height, width))
    out = np.empty((len(x), rows, columns), x.dtype)
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride - padding // 2, j * stride - padding // 2
            window = x[:, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
            out[:, i, j] = getattr(window, reduce)(axis=(1, 2))
    return out


@pytest.mark.parametrize(
    ("options", "size", "stride", "padding"),
    [
        ("size=2\nstride=2", 2, 2, 1),
        ("size=2\nstride=1", 2, 1, 1),
        ("stride=2", 2, 2, 1),
        ("size=5\nstride=1", 5, 1, 4),
        ("size=3\nstride=2", 3, 2, 2),
        ("size=2\nstride=2\npadding=0", 2, 2, 0),
        ("size=4\nstride=3", 4, 3, 3),
    ],
)
@pytest.mark.parametrize("shape", [(6, 8), (7, 9)])
def test_max_pools_pad_as_darknet(options: str, size: int, stride: int, padding: int, shape: tuple[int, int]) -> None:
    x, found = run(f"[maxpool]\n{options}\n", size=shape)
    np.testing.assert_array_equal(found, windows(x, size, stride, padding, "max"))


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 1), (5, 2)])
def test_average_pools_count_the_cells_inside(size: int, stride: int) -> None:
    x, found = run(f"[local_avgpool]\nsize={size}\nstride={stride}\n", size=(7, 8))
    np.testing.assert_allclose(found, windows(x, size, stride, size - 1, "mean"), rtol=1e-5, atol=1e-6)


def test_an_average_pool_of_odd_padding_is_refused() -> None:
    with pytest.raises(ValueError, match=r"line \d+, \[local_avgpool\]: size 4"):
        run("[local_avgpool]\nsize=4\nstride=2\n")


def test_depth_max_pool_strides_over_channels() -> None:
    x, found = run("[maxpool]\nmaxpool_depth=1\nout_channels=3\n", channels=8)
    np.testing.assert_array_equal(found, np.stack([x[g::3].max(axis=0) for g in range(3)]))


def test_routes_join_and_cut() -> None:
    x, found = run("[maxpool]\nsize=3\n[route]\nlayers=0,-1\n")
    np.testing.assert_array_equal(found, np.concatenate((x, windows(x, 3, 1, 2, "max"))))
    x, found = run("[maxpool]\nsize=3\n[route]\nlayers=-1,0\ngroups=2\ngroup_id=1\n")
    np.testing.assert_array_equal(found, np.concatenate((windows(x, 3, 1, 2, "max")[2:], x[2:])))
    x, found = run("[maxpool]\n[route]\nlayers=0\n")
    np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize("filters", [2, 6])
def test_shortcuts_add_the_leading_channels(filters: int) -> None:
    """The source (layer 0) has 4 channels, the map 2 or 6."""
    x, found = run(f"[conv]\nfilters={filters}\nactivation=linear\n[shortcut]\nfrom=0\nactivation=leaky\n[dropout]\n")
    text = f"[conv]\nfilters={filters}\nactivation=linear\n[dropout]\n"
    same, before = run(text)
    np.testing.assert_array_equal(same, x)
    before[:4] += x[:filters]
    np.testing.assert_allclose(found, np.where(before > 0, before, 0.1 * before), rtol=1e-5, atol=1e-6)


def test_shortcuts_sample_larger_maps() -> None:
    """Every second pixel, without averaging (docs/networks.md, Shortcuts)."""
    x, found = run("[maxpool]\nsize=2\nstride=2\n[shortcut]\nfrom=0\n")
    np.testing.assert_allclose(found, windows(x, 2, 2, 1, "max") + x[:, ::2, ::2], rtol=1e-6)
    with pytest.raises(ValueError, match=r"\[shortcut\]: layer 1 is 4 x 3 x 4, which cannot be added to 4 x 6 x 8"):
        run("[maxpool]\nstride=2\n[route]\nlayers=0\n[shortcut]\nfrom=1\n")


@pytest.mark.parametrize("kind", ["per_feature", "per_channel"])
@pytest.mark.parametrize("normalization", ["none", "relu", "softmax"])
def test_weighted_shortcuts(kind: str, normalization: str) -> None:
    layers = f"[maxpool]\nsize=3\n[shortcut]\nfrom=0,-1\nweights_type={kind}\nweights_normalization={normalization}\n"
    text = f"[net]\nwidth=8\nheight=6\n[conv]\nfilters=4\nactivation=linear\n{layers}"
    graph = build_text(text).eval()
    weights = graph.layers[2].weights
    assert weights.shape == (3, 4 if kind == "per_channel" else 1)
    with torch.no_grad():
        weights.copy_(torch.randn(weights.shape))
        image = torch.randn(1, 3, 6, 8)
        (found,) = graph(image)
        x = graph.layers[0](image)
        pooled = graph.layers[1](x)
    w = weights.detach().numpy().astype(np.float64)
    if normalization == "relu":
        w = w.clip(0) / (w.clip(0).sum(axis=0) + 1e-4)
    elif normalization == "softmax":
        e = np.exp(w - w.max(axis=0))
        w = e / (e.sum(axis=0) + 1e-4)
    w = w[:, :, None, None]
    expected = w[0] * pooled[0].numpy() + w[1] * x[0].numpy() + w[2] * pooled[0].numpy()
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_products_of_maps() -> None:
    x, found = run("[maxpool]\nsize=3\n[sam]\nfrom=0\n")
    pooled = windows(x, 3, 1, 2, "max")
    np.testing.assert_allclose(found, x * pooled, rtol=1e-6)
    x, found = run("[avgpool]\n[scale_channels]\nfrom=0\nactivation=relu\n")
    np.testing.assert_allclose(found, (x * x.mean(axis=(1, 2), keepdims=True)).clip(0), rtol=1e-4, atol=1e-6)
    x, found = run("[maxpool]\nmaxpool_depth=1\nout_channels=1\n[scale_channels]\nfrom=0\nscale_wh=1\n")
    np.testing.assert_allclose(found, x * x.max(axis=0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"\[sam\]: layer 0 is 4 x 6 x 8, so a map of 4 x 6 x 8 is expected here"):
        run("[avgpool]\n[sam]\nfrom=0\n")


def test_upsampling_repeats_and_scales() -> None:
    x, found = run("[upsample]\nstride=3\nscale=0.5\n")
    np.testing.assert_array_equal(found, 0.5 * x.repeat(3, axis=1).repeat(3, axis=2))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("leaky", lambda x: np.where(x > 0, x, 0.1 * x)),
        ("relu", lambda x: x.clip(0)),
        ("relu6", lambda x: x.clip(0, 6)),
        ("mish", lambda x: x * np.tanh(np.log1p(np.exp(x)))),
        ("swish", lambda x: x / (1 + np.exp(-x))),
        ("logistic", lambda x: 1 / (1 + np.exp(-x))),
        ("tanh", np.tanh),
        ("linear", lambda x: x),
    ],
)
def test_activations(name: str, function) -> None:
    x, found = run(f"[conv]\nfilters=4\ngroups=4\nactivation={name}\n")
    weights = build_text(
        "[net]\nwidth=8\nheight=6\n[conv]\nfilters=4\nactivation=linear\n[conv]\nfilters=4\ngroups=4\n"
    )
    randomise_(weights)
    conv = weights.layers[1].conv
    scale, shift = (tensor.detach().numpy().reshape(4, 1, 1) for tensor in (conv.weight, conv.bias))
    np.testing.assert_allclose(found, function(x * scale + shift), rtol=1e-4, atol=1e-5)


def test_the_default_activation_is_logistic() -> None:
    _, found = run("[conv]\nfilters=4\n")
    assert 0 < found.min() < found.max() < 1


def test_convolutions_have_two_strides_and_explicit_padding() -> None:
    _, found = run("[conv]\nfilters=2\nsize=3\nstride_x=2\nstride_y=1\npadding=2\nactivation=linear\n")
    assert found.shape == (2, 8, 5)
    _, found = run("[conv]\nfilters=2\nsize=3\ndilation=2\npad=1\nactivation=linear\n")
    assert found.shape == (2, 6, 8)


def test_dropout_and_drop_block_act_in_training_only() -> None:
    for options in ("probability=.5", "dropblock=1\ndropblock_size_abs=3", "dropblock=1\ndropblock_size_rel=.3"):
        text = f"[net]\nwidth=16\nheight=16\n[conv]\nfilters=4\nactivation=logistic\n[dropout]\n{options}\n"
        graph = build_text(text)
        image = torch.randn(1, 3, 16, 16)
        assert (graph(image)[0] == 0).any()
        assert (graph.eval()(image)[0] > 0).all()


def test_a_classifier_gives_its_logits() -> None:
    for name in ("darknet", "resnet50"):
        graph = build_text(NETWORKS[name].cfg(size=64, divide=16).text())
        assert graph.eval()(torch.rand(2, 3, 64, 64))[0].shape == (2, 1000)


def test_a_cfg_trains_on_any_number_of_classes() -> None:
    """Every parameter of a thin yolov4-tiny for 3 classes gets a gradient, through the loss its cfg names."""
    model = build_text(NETWORKS["yolov4-tiny"].cfg(size=64, divide=8).text(), num_classes=3)
    maps = model(torch.rand(2, 3, 64, 64))
    assert [tuple(raw.shape) for raw in maps] == [(2, 24, 4, 4), (2, 24, 2, 2)]
    criterion = build_criterion(model, {"assigner": {"type": "anchor_iou"}}, where="loss")
    assert criterion.box == "ciou"
    targets = Targets(
        torch.tensor([[5.0, 5.0, 40.0, 60.0], [1.0, 2.0, 30.0, 25.0]]),
        torch.tensor([0, 2]),
        torch.tensor([0, 1]),
        torch.zeros(2, dtype=torch.bool),
    )
    sum(criterion(maps, targets).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    assert build_criterion(model, {"box": "giou"}, where="loss").box == "giou", "the recipe has the last word"


def test_new_coords_decode_as_darknet() -> None:
    """Scaled-YOLOv4: logistic in the convolution, x = i + s t - (s - 1) / 2, w = (2 t)^2 anchor."""
    cfg = Cfg(32)
    cfg.conv(8, 3, 2)
    cfg.maxpool(16, 16)
    cfg.plain_conv(7, "logistic")
    cfg.add("yolo", mask="1", anchors="5,6,20,10", num=2, classes=2, scale_x_y=2.0, new_coords=1)
    model = build_text(cfg.text().replace("size=16", "size=16\npadding=0"))
    randomise_(model, seed=4)
    assert model.head.size == "square"
    image = torch.rand(1, 3, 32, 32)
    model.eval()
    with torch.no_grad():
        (raw,) = model(image)
        boxes, scores = model.predict(image)
    t = 1 / (1 + np.exp(-raw[0, :, 0, 0].numpy().astype(np.float64)))
    x, y = (2 * t[:2] - 0.5) * 32
    w, h = (2 * t[2:4]) ** 2 * (20, 10)
    np.testing.assert_allclose(boxes[0, 0], [x - w / 2, y - h / 2, x + w / 2, y + h / 2], rtol=1e-4)
    np.testing.assert_allclose(scores[0, 0], t[4] * t[5:], rtol=1e-5)
