"""One row of the benchmark: what a model costs, how fast it runs here, and its published figures."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.benchmark.costs import Costs, classes_of, count_costs
from models.build import build_model
from models.config import ModelConfig
from models.detector import Detector
from utils.device import describe_device, uses_tf32
from utils.memory import reset_gpu_peak

WARM_UPS, MIN_RUNS, MAX_RUNS, MAX_SECONDS = 2, 3, 100, 5.0
Row = dict[str, Any]
"""What was measured of one model at one image size; `measure` names its keys."""
RATIOS = ("params", "bflops", "cio", "activations_mb", "memory_mb", "latency_ms")
"""What a pair of models is compared by."""
PLAIN = "model.backbone.csp=null"
"""What makes a partial model its plain twin, as --set takes it."""


@dataclass(frozen=True)
class Conditions:
    """How to measure.

    Args:
        num_classes: of every model; None takes what `classes_of` says.
        latency: whether to run the models; otherwise only costs are counted, which is quick.
    """

    device: torch.device
    num_classes: int | None = None
    batch_size: int = 1
    latency: bool = True


def measure(config: ModelConfig, conditions: Conditions) -> Row:
    """One row of the table.

    `params` are trainable; `weights`, `floats` and `cio` (in millions) as in Costs. `latency_ms` is the median time of
    one batch from images on the device to boxes and scores, without NMS, or to probabilities; `fps` counts images.
    `memory_mb` is the most that tensors held at once, `activations_mb` the part of it that is not weights: measured on
    CUDA, else counted (`models/benchmark/costs.py`). `params_diff` and `bflops_diff` are percent above the published
    figures, for BFLOPs at the same image size.
    """
    costs = count_costs(config, num_classes=conditions.num_classes, batch_size=conditions.batch_size)
    height, width = config.size
    published = published_at(config.published, height)
    row: Row = {
        "cfg": config.file,
        "params": costs.params,
        "weights": costs.weights,
        "floats": costs.floats,
        "bflops": round(costs.bflops, 3),
        "img_size": height if height == width else [height, width],
        "latency_ms": None,
        "fps": None,
        "cio": round(costs.cio / 1e6, 2),
        "activations_mb": round(costs.activations_mb, 2),
        "memory_mb": round(costs.memory_mb, 1),
        "published": published,
        **differences(costs, published, height if height == width else 0),
    }
    return row | (run_model(config, conditions) if conditions.latency else {})


def run_model(config: ModelConfig, conditions: Conditions) -> Row:
    """Latency and frames per second of a model with fresh weights; on CUDA its memory too."""
    model = build_model(config, conditions.num_classes or classes_of(config)).eval()
    device = conditions.device
    reset_gpu_peak(device)
    images = torch.rand(conditions.batch_size, 3, *config.size).to(device)
    seconds = measure_latency(model.to(device), images)
    figures = {"latency_ms": round(seconds * 1e3, 2), "fps": round(conditions.batch_size / seconds, 1)}
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        held = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        figures |= {"activations_mb": round((peak - held) / 1e6, 2), "memory_mb": round(peak / 1e6, 1)}
    return figures


@torch.inference_mode()
def measure_latency(model: Detector, images: Tensor) -> float:
    """Median seconds of `model.predict(images)`, over a few seconds of runs after warming up.

    Args:
        images: (B, 3, H, W) in [0, 1], on the model's device.
    """
    seconds: list[float] = []
    while len(seconds) < WARM_UPS + MIN_RUNS or (len(seconds) < MAX_RUNS and sum(seconds) < MAX_SECONDS):
        start = time.perf_counter()
        model.predict(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        elif images.device.type == "mps":
            torch.mps.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UPS:])


def published_at(published: Sequence[dict[str, Any]], side: int) -> dict[str, Any] | None:
    """The published figures for the image size nearest to `side`, with that size as `img_size`; None without any.

    Where a size stands several times (speed on other devices), the first entry is given, the rest as its `others`.
    """
    if not published:
        return None
    nearest = min((figures["image_size"] for figures in published), key=lambda size: abs(size - side))
    entries = [dict(figures) for figures in published if figures["image_size"] == nearest]
    first, *others = [{"img_size": figures.pop("image_size"), **figures} for figures in entries]
    return {**first, "others": others} if others else first


def differences(costs: Costs, published: dict[str, Any] | None, side: int) -> dict[str, float | None]:
    """Percent by which parameters and BFLOPs are above the published figures; None without a figure to compare with.

    Args:
        side: of the square images that the costs are of; 0 where they are not square, as no published ones are.
    """
    percent: dict[str, float | None] = {"params_diff": None, "bflops_diff": None}
    if published is None:
        return percent
    if "params" in published:
        counted = getattr(costs, published.get("counted", "weights"))
        percent["params_diff"] = round(100 * (counted / 1e6 / published["params"] - 1), 2)
    if "bflops" in published and published["img_size"] == side:
        percent["bflops_diff"] = round(100 * (costs.bflops / published["bflops"] - 1), 2)
    return percent


def compare_rows(csp: Row, plain: Row) -> Row:
    """The rows of a partial model and a plain one, and the ratios of the first to the second.

    `twin` names the plain model: its file, or what is set in the same file.
    """
    names = [name for name in RATIOS if csp[name] is not None]
    ratio = {name: round(csp[name] / plain[name], 3) for name in names}
    twin = f"--set {PLAIN}" if plain["cfg"] == csp["cfg"] else plain["cfg"]
    about = {"cfg": csp["cfg"], "twin": twin, "img_size": csp["img_size"]}
    return {**about, "csp": csp, "plain": plain, "ratio": ratio}


def describe_conditions(conditions: Conditions) -> str:
    """The machine and the conditions in a few words."""
    if not conditions.latency:
        return "nothing, costs were counted alone (--no-latency)"
    device = describe_device(conditions.device)
    if conditions.device.type == "cpu":
        device = f"{processor()}, {torch.get_num_threads()} threads"
    precision = "fp32, convolutions in TF32" if uses_tf32(conditions.device) else "fp32"
    return f"{device}; PyTorch {torch.__version__}, {precision}, batch {conditions.batch_size}"


@functools.cache
def processor() -> str:
    """The CPU's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
