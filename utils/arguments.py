"""Types of command-line options, for argparse, and which of them were given."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from utils.config import nearest
from utils.log import say
from utils.text import shorten, shorten_message
from utils.threads import usable_cores
from utils.torchrun import local_ranks

LARGEST = 1_000_000_000
"""Of what options count: pixels, images, processes; more is a slip of the finger."""
AUTO = "auto"


_HABITS = {
    **dict.fromkeys(("imgsz", "img", "image-size", "input-size"), ("--img-size",)),
    **dict.fromkeys(("batch", "bs"), ("--batch-size",)),
    **dict.fromkeys(("model", "ckpt", "checkpoint", "pretrained"), ("--weights", "--cfg")),
    **dict.fromkeys(("config", "yaml"), ("--cfg",)),
    **dict.fromkeys(("conf", "score-thr"), ("--conf-thres",)),
    **dict.fromkeys(("iou", "nms-thres"), ("--iou-thres",)),
    **dict.fromkeys(("gpu", "gpus"), ("--device",)),
    **dict.fromkeys(("show", "view-img"), ("--view",)),
    **dict.fromkeys(("lr", "lr0"), ("--set optimizer.lr",)),
    "nosave": ("--no-save",),
    "vid-stride": ("--frame-step",),
    "max-det": ("--max-det",),
    "optimizer": ("--set optimizer.type",),
    "momentum": ("--set optimizer.momentum",),
    "weight-decay": ("--set optimizer.weight_decay",),
    "warmup-epochs": ("--set schedule.warmup_epochs",),
    "lrf": ("--set schedule.final",),
    "patience": ("--set patience",),
    "freeze": ("--set freeze",),
    "cache": ("--set cache",),
    "amp": ("--set amp",),
    "close-mosaic": ("--set augment.close_mosaic",),
    "multi-scale": ("--set augment.multi_scale",),
    "mosaic": ("--set augment.mosaic",),
    "mixup": ("--set augment.mixup",),
    "degrees": ("--set augment.degrees",),
    "translate": ("--set augment.translate",),
    "scale": ("--set augment.scale",),
    "shear": ("--set augment.shear",),
    "fliplr": ("--set augment.flip_lr",),
    "flipud": ("--set augment.flip_ud",),
    "hsv-h": ("--set augment.hue",),
    "hsv-s": ("--set augment.saturation",),
    "hsv-v": ("--set augment.value",),
}
"""Options of other programs, by their names without dashes in front -> ours; a command may have none of them."""


class Parser(argparse.ArgumentParser):
    """argparse that answers an unknown option with the one that was meant, whatever program its name comes from.

    Its messages go where all output goes: what was typed, or filled in by a shell, is quoted in them.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.typed: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See argparse; remembers what was typed, for `error`."""
        self.typed = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def add_model(self) -> None:
        """Add the options that name a model: --weights, --cfg and --trust."""
        self.add_argument(
            "--weights",
            help=".pt, .weights, .pth, .onnx or OpenVINO .xml (default: newest runs/train/*/weights/best.pt)",
        )
        self.add_argument("--cfg", help="darknet .cfg or model config, for darknet .weights and YOLOX .pth only")
        self.add_argument("--trust", action="store_true", help="run the code that a .torchscript file contains")

    def add_image_size(self, default: int | None = None, *, usual: str = "the model's") -> None:
        """Add --img-size, one side or height and width; gives (height, width), where it is left out that of `default`.

        Args:
            default: side in pixels; None: what `usual` says, and the option gives None.
        """
        self.add_argument(
            "--img-size", nargs="+", type=whole_number, action=_Size, metavar=("N", "W"),
            default=(default, default) if default else None,
            help=f"side of the network input in pixels, or its height and width (default: {default or usual})",
        )  # fmt: skip

    def add_tiles(self) -> None:
        """Add --tile [N], which gives 0 without a number, and --overlap."""
        self.add_argument(
            "--tile", nargs="?", type=whole_number, const=0, metavar="N",
            help="look at pictures in tiles of N x N pixels (without N: of the network input), and merge what is found",
        )  # fmt: skip
        self.add_argument("--overlap", type=share, help="share of a tile that its neighbour has too (default: 0.2)")

    def add_run_folder(self, kind: str) -> None:
        """Add --project and --name, the folder of a run: runs/KIND/exp where they are left out."""
        self.add_argument("--project", default=str(Path("runs", kind)), help="folder of runs (default: %(default)s)")
        self.add_argument("--name", default="exp", help="folder of this run in PROJECT; never overwritten")

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong; ends the program with status 2."""
        unknown, missing = message.startswith("unrecognized arguments: "), "are required: " in message
        answers = self._answers(message if unknown else None) if unknown or missing else []
        lines = answers if unknown and answers else [message, *answers]
        super().error(shorten_message("\n".join(lines)))

    def _answers(self, among: str | None) -> list[str]:
        """What was meant by each unknown option that was typed, and by each key=value word.

        Args:
            among: a text that holds the words that nothing has taken; None where that is not known, and only words
                with a known key are answered.
        """
        end = self.typed.index("--") if "--" in self.typed else len(self.typed)
        answers = []
        for place, word in enumerate(self.typed[:end]):
            name, equals, value = word.partition("=")
            dashes = word.startswith("-") and name.strip("-")[:1].isalpha()
            if name in self._option_string_actions or not (dashes or (equals and (among is None or word in among))):
                continue
            if dashes and not equals and place + 1 < len(self.typed):
                following = self.typed[place + 1]
                value = "" if following.startswith("-") else following
            meant = self._meant(name.strip("-").lower().replace("_", "-"), value)
            if meant is not None:
                answers.append(f"{shorten(word)}: no such option; use {shorten(meant, 200)}")
            elif dashes:
                near = nearest(name.strip("-"), [option.strip("-") for option in self._option_string_actions])
                hint = f" Did you mean --{near}?" if near else ""
                answers.append(f"{shorten(name)}: no such option.{hint} --help lists all")
        return answers

    def _meant(self, name: str, value: str) -> str | None:
        """Our words for an option of another program and its value; None where this command has no such thing."""
        own = self._option_string_actions
        if f"--{name}" in own:
            return f"--{name} {value}".strip()
        if any(action.dest == name and not action.option_strings for action in self._actions):
            return f"{value or name.upper()} alone, without a name before it"
        ours = [option for option in _HABITS.get(name, ()) if option.split()[0] in own]
        texts = [f"{option}={value or 'VALUE'}" if " " in option else f"{option} {value}".strip() for option in ours]
        return " or ".join(texts) or None

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:
            say(message.removesuffix("\n"), error=file is not sys.stdout)


class _Size(argparse.Action):
    """One or two numbers -> (height, width)."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        if len(values) > 2:
            parser.error(f"argument {option}: expected one number, or height and width, found {len(values)} numbers")
        setattr(namespace, self.dest, (values[0], values[-1]))


def whole_number(text: str) -> int:
    """A whole number from 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= LARGEST:
        limit = f" to {LARGEST:,}" if value > LARGEST else ""
        raise argparse.ArgumentTypeError(f"expected a whole number from 1{limit}, found {shorten(text)}")
    return value


def epochs(text: str) -> str:
    """N or +N; kept as text until it is known what it adds to."""
    digits = text.removeprefix("+")
    if not digits.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, or +N, found {text}")
    whole_number(digits)
    return text


def batch_size(text: str) -> int | str:
    """A whole number from 1, or 'auto'."""
    return text if text == "auto" else whole_number(text)


def seed(text: str) -> int:
    """A whole number from 0, as NumPy's generators take it."""
    if not text.isdecimal() or len(text) > 18:
        limit = " of at most 18 digits" if text.isdecimal() else ""
        raise argparse.ArgumentTypeError(f"expected a whole number from 0{limit}, found {shorten(text)}")
    return int(text)


def share_or_auto(text: str) -> float | str:
    """A number from 0 to 1, or 'auto'."""
    try:
        return AUTO if text == AUTO else share(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, or auto, found {shorten(text)}") from None


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {shorten(text)}")
    return value


def default_workers() -> int:
    """The default number of loader processes: half of the available cores, divided by the local ranks; 1 to 8."""
    return min(max(usable_cores() // (2 * local_ranks()), 1), 8)


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options `names` that the command line sets: whose value is not None."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}
