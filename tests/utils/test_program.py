"""utils/program.py: what Ctrl-C becomes, whenever it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from utils import program
from utils.config import ROOT
from utils.program import STOPPED, is_alive

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends signals")

PROGRAM = """
import os, signal, sys
from utils.program import quiet_imports, quiet_start, run_program
quiet_start()
def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)
def main():
{body}
    return 7
run_program(main)
"""


def run(*body: str) -> tuple[int, str]:
    """Exit status and standard error of a program."""
    text = PROGRAM.format(body="\n".join(f"    {line}" for line in body))
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


def test_without_ctrl_c_the_status_is_that_of_main() -> None:
    assert run("pass") == (7, "")


def test_ctrl_c_ends_in_one_word() -> None:
    assert run("ctrl_c()") == (STOPPED, "stopped\n")


@pytest.mark.parametrize("error", ["ImportError", "RecursionError", "SystemError"])
def test_what_packages_make_of_ctrl_c_is_no_other_error(error: str) -> None:
    raised = f"    raise {error}('failed') from None"
    body = ["try:", "    ctrl_c()", "except KeyboardInterrupt:", raised]
    assert run(*body) == (STOPPED, "stopped\n")


@pytest.mark.parametrize(("error", "pressed"), [("ImportError", False), ("ZeroDivisionError", True)])
def test_other_errors_are_shown(error: str, pressed: bool) -> None:
    press = ["try:", "    ctrl_c()", "except KeyboardInterrupt:", "    pass"] if pressed else []
    status, text = run(*press, f"raise {error}('mistake')")
    assert status == 1
    assert f"{error}: mistake" in text


@pytest.mark.parametrize("output", ["say('result')", "logging.getLogger('x').warning('text')"])
def test_a_reader_that_wants_no_more_is_no_error(output: str) -> None:
    body = ["import logging", "from utils.log import say, setup_logging", "setup_logging()"]
    text = PROGRAM.format(body="\n".join(f"    {line}" for line in [*body, *4 * [output]]))
    process = subprocess.Popen(
        [sys.executable, "-c", text], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (7, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
def test_a_result_that_cannot_be_written_is_an_error() -> None:
    text = PROGRAM.format(body="    from utils.log import say\n    say('result')")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert "error: [Errno 28] No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode not in (0, 7)


def test_while_packages_are_imported_ctrl_c_is_the_systems() -> None:
    assert run("with quiet_imports():", "    ctrl_c()") == (-signal.SIGINT, "")
    assert run("with quiet_imports():", "    pass", "ctrl_c()") == (STOPPED, "stopped\n")


def test_processes_that_run_are_told_from_others() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert is_alive(os.getpid())
    assert not is_alive(child.pid)


@pytest.mark.parametrize(
    ("found", "expected"),
    [(259, True), (0, False), (PermissionError(13, "Access is denied"), True), (OSError(22, "wrong parameter"), False)],
)
def test_on_windows_nothing_is_sent_to_a_process_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, found: int | OSError, expected: bool
) -> None:
    """There, signal 0 ends it."""
    closed: list[int] = []

    def open_process(*_: object) -> int:
        if isinstance(found, OSError):
            raise found
        return 7

    system = SimpleNamespace(OpenProcess=open_process, GetExitCodeProcess=lambda _: found, CloseHandle=closed.append)
    monkeypatch.setitem(sys.modules, "_winapi", system)
    with monkeypatch.context() as patch:
        patch.setattr(program.os, "name", "nt")
        patch.setattr(program.os, "kill", None)
        assert is_alive(4711) is expected
    assert closed == ([] if isinstance(found, OSError) else [7])
