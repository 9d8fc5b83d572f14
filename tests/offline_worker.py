"""What test_offline.py starts: commands, one after the other, in a process that says what they reach for.

python tests/offline_worker.py FOLDER COMMANDS.json
COMMANDS.json is a list of [module, [argument, ...]]. FOLDER/report.json gets of each command the exit status, and what
Python saw of the network, of other programs, and of files written outside FOLDER.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")
SHELLS = ("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.startfile", "pty.spawn")
CHANGES = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "os.truncate": 0, "shutil.copyfile": 1}
"""Event -> which of its arguments is the path that is written."""


class Watch:
    """An audit hook that refuses the network and notes the rest.

    Args:
        folder: where files may be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder.resolve())
        self.seen: list[list[str]] = []
        self.started: Any = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in NETWORK:
            address = arguments[-1] if event != "socket.getaddrinfo" else arguments[0]
            if isinstance(address, tuple) or not event.startswith(("socket.connect", "socket.bind")):
                self.seen.append(["network", f"{event} {address!r}"])
                raise PermissionError(f"the network is out of bounds: {event} {address!r}")
        elif event == "subprocess.Popen":
            self.started = arguments[1]
            self.seen.append(["program", Path(os.fsdecode(arguments[0] or arguments[1][0])).name])
        elif event == "os.posix_spawn" and arguments[1] == self.started:
            self.started = None  # subprocess itself, from Python 3.13 on
        elif event in SHELLS:
            self.seen.append(["shell", event])
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITING and not isinstance(path, int):
                self._written(path)
        elif event in CHANGES:
            self._written(arguments[CHANGES[event]])

    def _written(self, path: Any) -> None:
        place = os.path.abspath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else str(path)
        if not place.startswith((self.folder, "/dev/")):
            self.seen.append(["written", place])


def main() -> None:
    folder, commands = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    watch = Watch(folder)
    sys.addaudithook(watch)
    report = []
    for module, arguments in commands:
        watch.seen = []
        print(f"--- {module} {' '.join(arguments)}", flush=True)
        try:
            code = importlib.import_module(module).main(arguments)
        except SystemExit as error:
            code = error.code
        report.append({"command": module, "code": code, "seen": watch.seen})
    (folder / "report.json").write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
