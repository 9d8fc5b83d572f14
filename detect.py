"""Find objects in images, videos, cameras and streams; with a classifier, say what they show.

python detect.py --source photos/                              # with the newest training run
python detect.py --source 'clips/**/*.mp4' --weights best.pt --save-json
python detect.py --source rtsp://camera/stream --no-save --view

From Python (docs/python.md):

from detect import load_detector
detections = load_detector("best.pt")("photo.jpg")
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING


def _check_packages() -> None:
    """Refuse to go on with packages of another project, before any of them is imported.

    Raises:
        ImportError: 'utils', say, is not the one beside this file.
    """
    folder = Path(__file__).resolve().parent
    for name in ("data", "engine", "models", "utils"):
        spec = find_spec(name)
        places = list(spec.submodule_search_locations or ()) if spec else []
        if folder / name not in [Path(place).resolve() for place in places]:
            found = (spec.origin or ", ".join(places)) if spec else "none"
            raise ImportError(
                f"CSPDet needs its own package '{name}', in {folder}, and Python finds {found}. Put {folder} first on "
                f"sys.path before another '{name}' is imported, or run CSPDet in a process of its own; see "
                "'Names that clash' in docs/python.md"
            )


_check_packages()

from utils.program import quiet_imports, quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import argparse
import os

from utils.arguments import Parser, share, share_or_auto, whole_number
from utils.choices import DETECTOR_RESIZES, NMS_KINDS, RUNTIMES
from utils.log import setup_logging

if TYPE_CHECKING:
    from engine.detector import load_detector as load_detector


def __getattr__(name: str) -> object:
    """`load_detector`, imported when it is asked for: a command line needs none of what it imports."""
    if name != "load_detector":
        raise AttributeError(f"module 'detect' has no attribute '{name}'")
    from engine.detector import load_detector

    return load_detector


def main(argv: list[str] | None = None) -> int:
    """Command line; 0 when something was processed, 1 when nothing could be, 2 for a wrong command line."""
    args = parse_args(argv)
    setup_logging()
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what FFmpeg says of damaged files names none of them
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # PyTorch's threads leave the cores to others while they wait
    with quiet_imports():
        from engine.commands.detect import run

    return run(args)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    parser = Parser(description="Find objects in images and videos.")
    parser.add_argument(
        "--source", nargs="+", required=True, metavar="SOURCE",
        help="image, video, folder, 'glob' in quotes, .txt list, camera number, or rtsp:// or http:// stream",
    )  # fmt: skip
    parser.add_model()
    parser.add_argument(
        "--conf-thres", type=share_or_auto,
        help="detections score more than this, 0 to 1, or 'auto', what gave the best F1 on val (default: 0.25)",
    )  # fmt: skip
    parser.add_argument("--iou-thres", type=share, help="NMS removes overlaps above this IoU, 0 to 1 (default: 0.45)")
    parser.add_argument("--max-det", type=whole_number, help="detections kept in an image (default: 300)")
    parser.add_argument("--nms", choices=NMS_KINDS, help="kind of non-maximum suppression (default: the model's)")
    parser.add_argument("--classes", nargs="+", metavar="ID_OR_NAME", help="look for these classes only")
    parser.add_image_size()
    parser.add_argument("--resize", choices=DETECTOR_RESIZES, help="how images get their size")
    parser.add_argument("--square", action="store_true", help="letterbox to the whole input, not to the least padding")
    parser.add_tiles()
    parser.add_argument("--batch-size", type=whole_number, default=1, help="frames, or tiles, at a time")
    parser.add_argument(
        "--frame-step", type=whole_number, default=1, help="look at every Nth frame of videos and streams (default: 1)"
    )
    parser.add_argument("--every-frame", action="store_true", help="drop no late frames of cameras and streams")
    parser.add_argument("--device", help="cpu, cuda, cuda:N or mps (default: the fastest there is)")
    parser.add_argument("--runtime", choices=RUNTIMES, default="auto", help="what runs the model (default: auto)")
    parser.add_argument("--threads", type=whole_number, help="CPU threads (default: the runtime's own choice)")
    parser.add_argument("--half", action="store_true", help="fp16, on CUDA")
    parser.add_argument("--save-txt", action="store_true", help="write YOLO rows 'class cx cy w h' to labels/NAME.txt")
    parser.add_argument("--save-conf", action="store_true", help="add the score as sixth number of a YOLO row")
    parser.add_argument("--save-json", action="store_true", help="write detections.json, boxes in original pixels")
    parser.add_argument("--save-jsonl", action="store_true", help="write detections.jsonl, a line as each frame ends")
    parser.add_argument("--save-crop", action="store_true", help="cut detections out into crops/CLASS/")
    parser.add_argument("--no-save", action="store_true", help="write no annotated images and videos")
    parser.add_argument("--view", action="store_true", help="show frames in a window; q or Escape ends the run")
    parser.add_run_folder("detect")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_program(main)
