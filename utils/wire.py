"""Connections between the processes of one launch: JSON objects over TCP."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

CONNECT_SECONDS = 180.0
"""Within which all processes of a launch must have come up; they start together and import the same packages."""
_KEY = "cspdet/peers"


class Board(Protocol):
    """Where rank 0 leaves its address for the others: a store of torch.distributed."""

    def set(self, key: str, value: str) -> None:
        """Put a value there."""

    def get(self, key: str) -> bytes:
        """The value, once it is there."""

    def check(self, keys: list[str]) -> bool:
        """Whether all keys are there."""


class Wire:
    """One connection: JSON objects, one a line."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.lock = threading.Lock()
        self.lines = connection.makefile("r", encoding="utf-8", newline="\n")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A machine that loses its power closes nothing: ask after 10 silent seconds, give it up after 30 more.
        for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        if hasattr(os, "register_at_fork"):  # loader processes outlive a killed parent by seconds
            os.register_at_fork(after_in_child=self._forget)

    def send(self, message: dict[str, Any]) -> None:
        """Nothing happens when the other end is gone: who reads from it notices."""
        with contextlib.suppress(OSError), self.lock:
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[dict[str, Any]]:
        """What comes, until the other end closes."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed, or cut off in the middle of a line
            for line in self.lines:
                yield json.loads(line)

    def finish(self) -> None:
        """Nothing more is sent; what is under way still arrives, both ways."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Nobody is at the other end."""
        with contextlib.suppress(OSError):
            self.lines.close()
            self.connection.close()

    def _forget(self) -> None:
        """In a forked child: the connection is its parent's alone."""
        with contextlib.suppress(OSError):
            os.close(self.connection.detach())


def connect(board: Board, *, rank: int, world_size: int, host: str | None) -> tuple[dict[int, Wire], str]:
    """Connections between rank 0 and every other.

    Args:
        board: may still hold the address of a launch that was restarted; nobody answers there any more.
        host: of rank 0; None when all processes are on this machine.
    Returns:
        Wires by rank (of rank 0 to all others, of the others to rank 0), and a word that all of them share and no
        other launch has.
    Raises:
        TimeoutError: a process did not come up.
    """
    deadline = time.monotonic() + CONNECT_SECONDS
    if rank == 0:
        return _accept(board, world_size, deadline, everywhere=host is not None)
    while time.monotonic() < deadline:
        if board.check([_KEY]):
            port, word = board.get(_KEY).decode().split()
            with contextlib.suppress(OSError, ValueError):
                connection = socket.create_connection((host or "127.0.0.1", int(port)), timeout=5)
                wire = Wire(connection)
                wire.send({"word": word, "rank": rank})
                if next(wire.messages(), None) == {"welcome": word}:
                    connection.settimeout(None)
                    return {0: wire}, word
        time.sleep(0.1)
    raise TimeoutError(f"rank 0 was not reached within {CONNECT_SECONDS:.0f} s; see its output")


def _accept(board: Board, world_size: int, deadline: float, *, everywhere: bool) -> tuple[dict[int, Wire], str]:
    """Rank 0's side: a port that is open until all have come."""
    word, wires = secrets.token_hex(16), {}
    with _listener(everywhere) as listener:
        board.set(_KEY, f"{listener.getsockname()[1]} {word}")
        while len(wires) < world_size - 1:
            listener.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                connection, _ = listener.accept()
                connection.settimeout(5)
                wire = Wire(connection)
                hello = next(wire.messages(), {})
            except TimeoutError:
                if time.monotonic() < deadline:
                    continue
                missing = ", ".join(str(other) for other in range(1, world_size) if other not in wires)
                raise TimeoutError(
                    f"rank {missing} did not come up within {CONNECT_SECONDS:.0f} s; see its output"
                ) from None
            if hello.get("word") != word:
                wire.close()
                continue
            connection.settimeout(None)
            wire.send({"welcome": word})
            wires[int(hello["rank"])] = wire
    return wires, word


def _listener(everywhere: bool) -> socket.socket:
    if not everywhere:
        return socket.create_server(("127.0.0.1", 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))
