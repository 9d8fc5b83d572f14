"""Command: parameters, BFLOPs, latency and memory of models, beside the published figures."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.build import build_model
from models.config import ModelConfig, load_model_config
from models.darknet.cfg import declared_classes
from models.flops import count_bflops
from utils.arguments import whole_number
from utils.config import ROOT, ConfigError
from utils.device import CHOICES, select_device

COLUMNS = ("cfg", "params", "bflops", "img_size", "latency_ms", "fps", "memory_mb", "published")
WARM_UPS, MIN_RUNS, MAX_RUNS, MAX_SECONDS = 2, 3, 100, 5.0


def benchmark(config: ModelConfig, *, num_classes: int, batch_size: int, device: torch.device) -> dict[str, Any]:
    """One row of the table, as commands.md names its keys.

    `latency_ms` is the median time of one batch from images on the device to boxes and scores, without NMS; `fps`
    counts images. `memory_mb` is the most that was held: by tensors on CUDA, by the whole process on a Linux CPU, else
    it is None.
    """
    model = build_model(config, num_classes).eval()
    height, width = config.size
    row = {
        "cfg": config.file,
        "params": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "bflops": round(count_bflops(model, config.size), 3),
        "img_size": height if height == width else [height, width],
    }
    images = torch.rand(batch_size, 3, height, width).to(device)
    _reset_peak_memory(device)
    seconds = measure_latency(model.to(device), images)
    return row | {
        "latency_ms": round(seconds * 1e3, 2),
        "fps": round(batch_size / seconds, 1),
        "memory_mb": _peak_memory(device),
        "published": nearest_published(config.published, height),
    }


@torch.inference_mode()
def measure_latency(model: nn.Module, images: torch.Tensor) -> float:
    """Median seconds of `model.predict(images)`, over a few seconds of runs after warming up."""
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


def nearest_published(published: Sequence[dict[str, Any]], side: int) -> dict[str, Any] | None:
    """The published figures for the image size nearest to `side`, with that size as `img_size`; None without any."""
    if not published:
        return None
    figures = dict(min(published, key=lambda figures: abs(figures["image_size"] - side)))
    return {"img_size": figures.pop("image_size"), **figures}


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as aligned text."""
    lines = [list(COLUMNS), *([_cell(row[column]) for column in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        with contextlib.suppress(OSError):  # a sandbox may forbid it; the peak is then that of the whole command
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set size


def _peak_memory(device: torch.device) -> float | None:
    """MB (1e6 bytes)."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    status = Path("/proc/self/status")
    if device.type != "cpu" or not status.exists():
        return None
    kilobytes = next((line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")), None)
    return None if kilobytes is None else round(int(kilobytes) * 1024 / 1e6, 1)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.benchmark", description=__doc__)
    parser.add_argument("cfg", nargs="*", metavar="CFG", help="models or darknet .cfg files (default: all in cfg/)")
    parser.add_argument("--img-size", type=whole_number, metavar="N", help="side in pixels (default: the model's own)")
    parser.add_argument("--batch-size", type=whole_number, default=1, metavar="N", help="images per run (default 1)")
    parser.add_argument("--num-classes", type=whole_number, metavar="N", help="default: the .cfg's own, else 80")
    parser.add_argument("--device", help=f"{CHOICES} (default: the fastest there is)")
    parser.add_argument("--threads", type=whole_number, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a model")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        device = select_device(args.device)
        configs = [load_model_config(name) for name in args.cfg or sorted((ROOT / "cfg").glob("*.yaml"))]
        if args.img_size:
            configs = [dataclasses.replace(config, image_size=args.img_size) for config in configs]
        rows = [
            benchmark(
                config,
                num_classes=args.num_classes or declared_classes(config.backbone) or 80,
                batch_size=args.batch_size,
                device=device,
            )
            for config in configs
        ]
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(rows, indent=2) if args.json else format_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
