"""A launch that torchrun has restarted (--max-restarts) goes on with its own run, without --resume."""

from __future__ import annotations

import json
import logging
import os
import socket
from argparse import Namespace
from pathlib import Path
from typing import Any

from engine.options import FIXED_BY_A_RUN
from utils import dist
from utils.files import write_atomically

logger = logging.getLogger(__name__)

FILE = "launch.json"
"""In the folder of a run that torchrun started: the command, torchrun's own processes, and those that it started."""


def note_launch(folder: Path, args: Namespace) -> None:
    """Leave in the run folder who trains there (rank 0; every rank calls this); nothing without torchrun."""
    if not dist.launched_by_torchrun() or args.dry_run:
        return
    identities = dist.gather([_agent(), _process(os.getpid())])
    if dist.rank() == 0:
        agents, processes = (sorted({each[part] for each in identities}) for part in (0, 1))
        about = {"command": _command(args), "agents": agents, "processes": processes}
        write_atomically(folder / FILE, json.dumps(about, indent=2) + "\n")


def continued(args: Namespace) -> Namespace:
    """The command line, with --resume and the run of this very launch when torchrun has restarted it.

    That is a run which the same torchrun, on any machine of the launch, has started with the same command, in another
    process than this. Every rank gets the same answer.
    """
    if not dist.launched_by_torchrun():
        return args
    found = [folder for folder in dist.exchange(_own_run(args)) if folder is not None]
    if not found:
        return args
    logger.info("torchrun has restarted this training: continuing %s", found[0])
    given = vars(args) | dict.fromkeys(FIXED_BY_A_RUN) | {"set": [], "resume": found[0], "epochs": None}
    return Namespace(**given, launched_as=vars(args))


def _own_run(args: Namespace) -> str | None:
    agent, process, command = _agent(), _process(os.getpid()), _command(args)
    notes = sorted(Path(args.project).glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in notes:
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            mine = note["command"] == command and agent in note["agents"] and process not in note["processes"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if mine:
            return str(path.parent)
    return None


def _command(args: Namespace) -> dict[str, Any]:
    """The options that were typed, as JSON gives them back."""
    return json.loads(json.dumps(getattr(args, "launched_as", vars(args)), default=str))


def _agent() -> str:
    """The torchrun process that started this one: it outlives a restart, and no other has its name ever again."""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID', '')} {_process(os.getppid())}"


def _process(number: int) -> str:
    """A process of any machine: number and, where /proc tells, start, so that numbers used again are another's."""
    return f"{socket.gethostname()} {_read('/proc/sys/kernel/random/boot_id')} {number} {_start_of(number)}"


def _start_of(number: int) -> str:
    """Field 22 of /proc/N/stat; the name in field 2 may hold spaces and brackets."""
    return next(iter(_read(f"/proc/{number}/stat").rpartition(")")[2].split()[19:20]), "")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
