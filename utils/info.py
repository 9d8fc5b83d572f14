"""Command: describe a file that train.py or export.py wrote, and convert a checkpoint's weights to safetensors.

python -m utils.info runs/train/exp/weights/best.pt
python -m utils.info best.pt --safetensors best.safetensors     # the averaged weights, in a file that is pure data
"""

from __future__ import annotations

from utils.program import quiet_imports, quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

from collections.abc import Sequence
from pathlib import Path

from utils.arguments import Parser
from utils.config import ConfigError
from utils.log import say_error
from utils.run import check_there


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0, or 2 for a wrong command line or file."""
    parser = Parser(prog="python -m utils.info", description="Say what a file of train.py or export.py is.")
    parser.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        help="checkpoint or replay file (.pt), .safetensors, .onnx, .xml (OpenVINO), .torchscript or darknet .weights",
    )
    parser.add_argument("--json", action="store_true", help="everything, as one JSON object")
    parser.add_argument("--safetensors", metavar="OUT", type=Path, help="write the averaged weights to OUT.safetensors")
    args = parser.parse_args(argv)
    try:
        if args.file.is_dir():
            raise ConfigError(f"{args.file}: is a folder; name a file in it, of a run weights/best.pt")
        check_there(args.file)
        with quiet_imports():
            from engine.commands.info import run

        run(args.file, as_json=args.json, safetensors=args.safetensors)
    except (ConfigError, OSError) as error:
        say_error(error)
        return 2
    return 0


if __name__ == "__main__":
    run_program(main)
