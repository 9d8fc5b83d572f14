"""Launches of tests/ddp_faulty.py by torchrun, on one machine or as if on several."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config import ROOT

LIMIT = 150
"""Seconds for a launch."""


@dataclass(frozen=True)
class Ended:
    """How a launch ended.

    Args:
        codes: exit status of torchrun on each machine.
        log: what all processes said.
        seconds: from the (last) fault to the end of the last torchrun.
    """

    codes: list[int]
    log: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        """The lines for the user."""
        return [line for line in self.log.splitlines() if line.startswith("error: ")]


def launch(
    folder: Path,
    arguments: Sequence[str],
    fault: dict[str, Any],
    *,
    processes: int = 2,
    machines: int = 1,
    options: Sequence[str] = (),
) -> Ended:
    """Train with a fault and wait for the end.

    Args:
        folder: for logs and marks.
        fault: see ddp_faulty.py.
        processes: on each machine.
        options: of torchrun.
    """
    marks = folder / "marks"
    marks.mkdir(parents=True)
    where = ["--standalone"]
    if machines > 1:
        where = ["--nnodes", str(machines), "--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    common = [*options, str(ROOT / "tests" / "ddp_faulty.py"), json.dumps({**fault, "marks": str(marks)}), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = []
    for number in range(machines):
        command = [sys.executable, "-m", "torch.distributed.run", *where, "--nproc_per_node", str(processes)]
        command += [*(["--node_rank", str(number)] if machines > 1 else []), *common]
        with open(folder / f"log{number}", "w") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder))
    try:
        codes = [process.wait(LIMIT) for process in started]
    finally:
        for process in started:
            process.kill()
    end = time.time()
    times = [float(mark.read_text()) for mark in marks.iterdir()]
    text = "\n".join((folder / f"log{number}").read_text() for number in range(machines))
    return Ended(codes, text, end - max(times, default=end))


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
