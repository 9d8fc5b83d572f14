"""Time of a picture by runtime: python benchmarks/inference.py --cfg cspdet-n cspdet-n-af.

Models have random weights with calibrated norms, and one picture at a time, in fp32. Our predictors stand beside the
bare runtimes, a model fused by hand, and OpenCV on an exported file, whose speed counts as 1. They take turns, so that
what else the machine does hits all alike. benchmarks/video.py has the stages around the network.

--published measures the networks of the authors' inference table, and --markdown puts that table into a page.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.benchmark.inference import format_section, with_section
from models.benchmark.measure import processor
from models.benchmark.published import load_published
from models.build import build_model
from models.config import load_model_config
from models.detector import Detector
from models.export.darknet import write_darknet
from models.export.network import ExportSpec
from models.export.onnx import write_onnx
from models.export.openvino import write_openvino
from models.info import ModelInfo, Predictor
from models.layers import ConvNormAct
from models.predictor import open_predictor
from models.predictor_torch import ModelPredictor
from models.runtimes import import_onnxruntime, openvino_core
from utils.arguments import Parser, whole_number
from utils.config import ConfigError
from utils.files import write_atomically
from utils.launch import run_together
from utils.log import say
from utils.opencv import silent_opencv
from utils.threads import limit_threads

NAMES = tuple(f"class {label}" for label in range(80))
WARM_UPS = 3
"""Rounds that do not count."""
PAUSE = 0.02
"""Seconds before a turn: the threads of the one before spin while they wait for work, and would take the cores."""
OURS = ", ours"
MISREAD = ("local_avgpool", "dilation=", "maxpool_depth", "weights_type")
"""What OpenCV's darknet reader does not know or ignores (docs/darknet.md, Measured)."""


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    return run_together(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = Parser(description="Time of a picture by runtime.")
    parser.add_argument("--cfg", nargs="+", default=["cspdet-n"], help="models")
    parser.add_argument("--published", action="store_true", help="the models of the authors' inference table instead")
    parser.add_argument("--img-size", type=whole_number, help="pixels (default: the model's own)")
    parser.add_argument("--rounds", type=whole_number, default=15, help="pictures for each runtime that count")
    parser.add_argument("--threads", type=whole_number, default=2, help="CPU threads of each of them")
    parser.add_argument("--wall", action="store_true", help="time by the clock, not of the process")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="with --published: write the table into this page"
    )
    args = parser.parse_args(argv)
    if args.markdown and not (args.published and args.markdown.is_file()):
        parser.error("--markdown: expected --published beside it, and a page that exists")
    limit_threads(args.threads)
    table = load_published().inference
    rows = table.rows if args.published else []
    sides = {row.cfg or "": row.img_size[0] for row in rows if row.img_size} or dict.fromkeys(args.cfg)
    found = {}
    for name, side in sides.items():
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode(), silent_opencv():
            found[name] = measure(name, Path(folder), args, side=args.img_size or side)
    if args.markdown:
        section = format_section(table, found, how=conditions(args))
        write_atomically(args.markdown, with_section(args.markdown.read_text(encoding="utf-8"), section))
        say(f"Wrote {args.markdown}")
    return 0


def conditions(args: argparse.Namespace) -> str:
    """Date, machine, versions and settings in a few words."""
    clock = "by the clock" if args.wall else "of the process"
    pixels = f", {args.img_size} px in place of the models' own" if args.img_size else ""
    versions = [f"{name} {version(name)}" for name in ("torch", "onnxruntime", "openvino")]
    return (
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {args.threads} threads; {', '.join(versions)}, "
        f"OpenCV {cv2.__version__}; fp32, batch 1, medians of {args.rounds} pictures, {clock}{pixels}"
    )


def measure(name: str, folder: Path, args: argparse.Namespace, *, side: int | None = None) -> dict[str, float]:
    """Measure a model and print its table.

    Returns:
        The milliseconds of 'OpenCV, FORMAT', if it reads the network, and of our predictors, by the runtime's name.
    """
    now = time.perf_counter if args.wall else time.process_time
    config = load_model_config(name)
    size = (side, side) if side else config.size
    with torch.inference_mode(False):
        model = calibrated(name, size)
    info = ModelInfo(NAMES, tuple(range(1, len(NAMES) + 1)), size, "letterbox", model.stride)
    images = np.random.default_rng(0).random((1, 3, *size), np.float32)
    predictors = exported(model, info, folder, args.threads)
    contestants = all_of(predictors, model, images, folder, args.threads)
    order = random.Random(0)
    rounds: dict[str, list[float]] = {title: [] for title in contestants}
    for _ in range(WARM_UPS + args.rounds):
        for title in order.sample(list(contestants), len(contestants)):
            time.sleep(PAUSE)
            contestants[title]()  # the caches hold what the one before left there
            begin = now()
            contestants[title]()
            rounds[title].append(now() - begin)
    kind = "by the clock" if args.wall else "of the process"
    pixels = " x ".join(map(str, dict.fromkeys(size)))
    say(f"{name}, {pixels} px, {args.threads} threads, fp32; medians of {args.rounds}, ms {kind}")
    middle = {title: 1000 * statistics.median(times[WARM_UPS:]) for title, times in rounds.items()}
    first = next(iter(middle.values()))
    say("\n".join(f"{title:24}{took:9.2f}{first / took:7.2f}" for title, took in middle.items()))
    if not next(iter(middle)).startswith("OpenCV"):
        say("OpenCV does not read this network; the speeds are beside the first line")
    return {
        title.removesuffix(OURS).replace(f"OpenCV {cv2.__version__}", "OpenCV"): took
        for title, took in middle.items()
        if title.endswith(OURS) or title.startswith("OpenCV")
    }


def calibrated(name: str, size: tuple[int, int]) -> Detector:
    """A model with random weights, and norms that fit them, so that values keep a usual size."""
    torch.manual_seed(0)
    model = build_model(load_model_config(name), len(NAMES)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean of all batches
    with torch.no_grad():
        for _ in range(2):
            model(torch.rand(2, 3, *size))
    return model.eval()


def exported(model: Detector, info: ModelInfo, folder: Path, threads: int) -> dict[str, Predictor]:
    """Our predictors, by title."""
    with torch.inference_mode(False):
        spec = ExportSpec(info, dynamic=True)
        write_onnx(model, folder / "any.onnx", spec)
        write_openvino(model, folder / "openvino.xml", spec)
        write_onnx(model, folder / "fixed.onnx", ExportSpec(info))
        own = ModelPredictor(copy.deepcopy(model), info, device=torch.device("cpu"), fuse=True)
    files = {"ONNX Runtime": folder / "any.onnx", "OpenVINO": folder / "openvino.xml"}
    return {"PyTorch": own} | {title: open_predictor(file, threads=threads) for title, file in files.items()}


def all_of(
    predictors: dict[str, Predictor], model: Detector, images: np.ndarray, folder: Path, threads: int
) -> dict[str, Callable[[], object]]:
    """Every way to run the model, OpenCV first if it reads it."""
    opencv: dict[str, Callable[[], object]] = {}
    if (read := read_by_opencv(model, predictors["PyTorch"].info, folder, images)) is not None:
        opencv[f"OpenCV {cv2.__version__}, {read[1]}"] = partial(run_opencv, read[0], images)
    fused = copy.deepcopy(model)
    for module in fused.modules():
        if isinstance(module, ConvNormAct) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv, module.norm = fuse_conv_bn_eval(module.conv, module.norm), nn.Identity()
    fused = fused.to(memory_format=torch.channels_last)
    tensor = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / "fixed.onnx"), options, providers=["CPUExecutionProvider"])
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino_core().compile_model(folder / "fixed.onnx", "CPU", hints)
    bare: dict[str, Callable[[], object]] = {
        **opencv,
        "PyTorch, fused by hand": lambda: fused(tensor),
        "ONNX Runtime, bare": lambda: session.run(None, {"images": images}),
        "OpenVINO, bare": lambda: compiled({"images": images}),
    }
    return bare | {title + OURS: partial(each.candidates, images, 0.25) for title, each in predictors.items()}


def read_by_opencv(
    model: Detector, info: ModelInfo, folder: Path, images: np.ndarray
) -> tuple[cv2.dnn.Net, str] | None:
    """The network in OpenCV, and the format that it came in: darknet where that has all its parts; None for neither."""
    for how, read in (
        ("darknet", read_darknet),
        ("ONNX", lambda *_: cv2.dnn.readNetFromONNX(str(folder / "fixed.onnx"))),
    ):
        try:
            net = read(model, info, folder)
            run_opencv(net, images)
        except (ConfigError, cv2.error, AttributeError):  # OpenCV 5 has no darknet reader
            continue
        return net, how
    return None


def read_darknet(model: Detector, info: ModelInfo, folder: Path) -> cv2.dnn.Net:
    """The network as OpenCV reads our darknet export of it.

    Raises:
        ConfigError: darknet has no section for a part of it, or OpenCV reads one of them wrongly.
    """
    write_darknet(model, folder / "x.weights", ExportSpec(info))
    text = (folder / "x.cfg").read_text(encoding="utf-8")
    if any(word in text for word in MISREAD):
        raise ConfigError("OpenCV would compute another network")
    return cv2.dnn.readNetFromDarknet(str(folder / "x.cfg"), str(folder / "x.weights"))


def run_opencv(net: cv2.dnn.Net, images: np.ndarray) -> object:
    """The outputs of (B, 3, H, W) float32 images."""
    net.setInput(images)
    return net.forward(net.getUnconnectedOutLayersNames())


if __name__ == "__main__":
    sys.exit(main())
