"""A launch that torchrun has restarted (--max-restarts) goes on with its own run, without --resume."""

from __future__ import annotations

import json
import logging
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from engine.options import FIXED_BY_A_RUN
from utils import dist
from utils.files import write_json
from utils.text import from_json
from utils.torchrun import launched_by_torchrun

logger = logging.getLogger(__name__)

FILE = "launch.json"
"""In the folder of a run that torchrun started: the command, and of each torchrun the processes that it started."""


def note_launch(folder: Path, args: Namespace) -> None:
    """Leave in the run folder who trains there (rank 0; every rank calls this); nothing without torchrun."""
    if not launched_by_torchrun() or args.dry_run:
        return
    agents: dict[str, list[int]] = {}
    for agent, process in dist.gather([_agent(), os.getpid()]):
        agents.setdefault(agent, []).append(process)
    if dist.rank() == 0:
        write_json(folder / FILE, {"command": _command(args), "agents": agents}, indent=2)


def continued(args: Namespace) -> Namespace:
    """The command line, with --resume and the run of this very launch when torchrun has restarted it.

    That is a run which the same torchrun, on any machine of the launch, has started with the same command, in another
    process than this. Every rank gets the same answer.
    """
    if not launched_by_torchrun():
        return args
    runs = [folder for folder in dist.exchange(_own_run(args)) if folder is not None]
    if not runs:
        return args
    logger.info("torchrun has restarted this training: continuing %s", runs[0])
    given = vars(args) | dict.fromkeys(FIXED_BY_A_RUN) | {"set": [], "resume": runs[0], "epochs": None}
    return Namespace(**given, launched_as=vars(args))


def _own_run(args: Namespace) -> str | None:
    agent, command = _agent(), _command(args)
    notes = sorted(Path(args.project).glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in notes if agent else []:
        try:
            note = from_json(path.read_text(encoding="utf-8"))
            mine = note["command"] == command and os.getpid() not in note["agents"].get(agent, [os.getpid()])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if mine:
            return str(path.parent)
    return None


def _command(args: Namespace) -> dict[str, Any]:
    """The options that were typed, as JSON gives them back."""
    return json.loads(json.dumps(getattr(args, "launched_as", vars(args)), default=str))


def _agent() -> str:
    """The torchrun that started this process, by its folder of error files; '' where it has none.

    The folder (PLACE/RUN-ID_RANDOM, above attempt_N/LOCAL_RANK/error.json) is new for each torchrun and stays over its
    restarts. The run id alone is not enough, as it is "none" where the user gives none.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return str(Path(file).parent.parent.parent) if file else ""
