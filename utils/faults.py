"""Messages for failures of the machine, memory, disk or loader processes: cause and remedy instead of a traceback."""

from __future__ import annotations

import errno
import re
import shutil
import sys

from utils.files import NO_SPACE, DiskFull, FileHeld
from utils.log import error_text, say_error
from utils.text import printable

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_LOST = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENXIO, errno.ENODEV)

SHARED_MEMORY = (
    "loader processes hand images over in shared memory (/dev/shm), and there is too little of it; give more "
    "(docker run --shm-size=8g, or mount -o remount,size=8g /dev/shm), or use fewer --workers (0 needs none)"
)
OPEN_FILES = "too many open files: raise the limit (ulimit -n 65536), or use fewer --workers"

LONE_VALUE = (
    "batch normalisation has one value per channel, and so no variance: one image whose map is 1 x 1; use a larger "
    "--batch-size or --img-size"
)

_SIGNS = (
    # Of torch's loader; the pid is that of the process that died.
    (r"out of shared memory|killed by signal: Bus error", "a loader process died: {shared}"),
    (
        r"worker.* is killed by signal: Killed",
        "a loader process was killed, by somebody or by the system for want of memory (dmesg tells): use fewer "
        "--workers, or --set cache=false",
    ),
    (
        r"worker.* is killed by signal: (?P<signal>[\w ]+)",
        "a loader process died ({signal}), in a library that reads images; --workers 0 shows which image it is",
    ),
    (
        r"DataLoader worker .*exited unexpectedly",
        "a loader process ended without a word: use fewer --workers; --workers 0 shows the error itself",
    ),
    (
        r"DataLoader timed out after (?P<seconds>[\d.]+) seconds",
        "no batch came from the loader processes for {seconds} s: is a disk or network drive stuck? --workers 0 shows "
        "the image; worker_timeout in the recipe is how long to wait",
    ),
    (r"Too many open files|received 0 items of ancdata", "{files}"),
    (r"shared memory|unable to (write to|mmap|open|resize) (file|.*torch_)", "{shared}"),
    (
        r"(?P<name>\S+) does not have a deterministic implementation",
        "--deterministic: {name} has no kernel that repeats to the bit on this device; train without --deterministic, "
        "or on the CPU",
    ),
)
"""Pattern in a RuntimeError -> what it means."""

_MEMORY_SIGNS = (
    "can't allocate memory",  # DefaultCPUAllocator
    "not enough memory",  # the same on Windows
    "out of memory",  # CUDA, and MPS
    "_STATUS_ALLOC_FAILED",  # cuBLAS and cuDNN
    "CUBLAS_STATUS_NOT_INITIALIZED",  # whose handle and workspace find no room
    "unable to find an engine",  # cuDNN, with no room for the workspace of any
    "ALLOCATION_FAILED",  # cuDNN 9
    "could not create a primitive",  # oneDNN, which finds none for its own tables
    "could not create a memory",
    "Insufficient memory",  # OpenCV
    "Unable to allocate",  # NumPy, from a loader process
)
"""In a RuntimeError that says that memory has run out."""


_OF_A_GPU = ("CUDA", "MPS", "CUBLAS", "CUDNN", "unable to find an engine")
"""In what the allocator of a GPU says, and not in that of the machine."""


def explain(error: Exception) -> str | None:
    """The message for the user; None for a bug in the program, whose traceback is worth reading."""
    if isinstance(error, (DiskFull, FileHeld)):
        return str(error)
    if is_out_of_memory(error):
        return _explain_memory(error)
    if isinstance(error, OSError):
        return _explain_os(error)
    if isinstance(error, ValueError):
        text = error_text(error)
        text = printable(text) if type(error) is ValueError else text
        return LONE_VALUE if "more than 1 value per channel" in text else text
    return _explain_runtime(str(error)) if isinstance(error, RuntimeError) else None


def report(error: Exception) -> int:
    """Print the message to standard error; returns the exit status of a failed command.

    Raises:
        Exception: `error` itself, if it is a bug in the program.
    """
    text = explain(error)
    if text is None:
        raise error
    say_error(text)
    return 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a GPU or of the machine."""
    of_torch = getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError)  # torch is not imported for this
    if isinstance(error, (MemoryError, of_torch)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:  # a process that cannot be started
        return True
    of_opencv = type(error).__module__ == "cv2"  # whose errors have no class of their own
    return (isinstance(error, RuntimeError) or of_opencv) and any(sign in str(error) for sign in _MEMORY_SIGNS)


def memory_reason(error: BaseException) -> str:
    """What the allocator says, in its first line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rpartition("DefaultCPUAllocator: ")[2]


def _explain_os(error: OSError) -> str:
    where = f"{printable(error.filename)}: " if error.filename else ""
    reason = error.strerror or printable(error_text(error))
    if error.errno in NO_SPACE:
        return (
            f"{where}no space on the disk; make room (older runs are a good place to look), or choose another --project"
        )
    if error.errno in _READ_ONLY:
        return f"{where}cannot be written or read ({reason}); correct its permissions, or choose another --project"
    if error.errno in _LOST:
        return f"{where}the disk does not answer ({reason}); is it still connected and mounted?"
    if error.errno == errno.EMFILE:
        return OPEN_FILES
    return _explain_runtime(str(error)) or printable(error_text(error))


def _explain_memory(error: Exception) -> str:
    reason = error_text(error) if "Original Traceback" in str(error) else memory_reason(error)
    where = "of the GPU" if any(sign in reason for sign in _OF_A_GPU) else "of the machine"
    return (
        f"out of memory {where} ({reason}); use a smaller --batch-size or --img-size, fewer --workers, "
        "--set cache=false, or close other programs"
    )


def _explain_runtime(text: str) -> str | None:
    if "exited unexpectedly" in text and _shared_memory_is_small():  # its own words came from another process
        return f"a loader process died: {SHARED_MEMORY}"
    for pattern, meaning in _SIGNS:
        if match := re.search(pattern, text):
            return meaning.format(shared=SHARED_MEMORY, files=OPEN_FILES, **match.groupdict())
    return None


def _shared_memory_is_small() -> bool:
    try:
        return shutil.disk_usage("/dev/shm").free < 256e6
    except OSError:
        return False
