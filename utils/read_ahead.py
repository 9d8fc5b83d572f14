"""Threads that prepare items ahead of their use, or work on several of them at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(
    function: Callable[[T], R], items: Iterable[T], *, threads: int, begin: Callable[[], None]
) -> Generator[R, None, None]:
    """What a function returns for each item, in their order; `threads` threads work on different items at once.

    What the function raises is raised here, after the results of the items before. With one thread it runs in the
    caller's, and nothing runs ahead.

    Args:
        begin: is called first in each of several threads.
    """
    if threads == 1:
        yield from map(function, items)
        return
    waiting = deque[Future[R]]()
    pool = ThreadPoolExecutor(threads, "side-by-side", initializer=begin)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:  # the next one waits in the pool, so that no thread has to
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _result(future: Future[R]) -> R:
    while not future.done():
        wait((future,), timeout=0.5)  # without a limit Ctrl-C could not interrupt it on Windows
    return future.result()


class ReadAhead(Generic[T]):
    """Iterator over `items`, which run in a thread of their own up to `depth` items ahead.

    What `items` raises is raised here, after the items before it. Call `close` when leaving early.

    Args:
        items: is iterated in the thread alone.
        depth: items that may wait.
        may_drop: whether an item is worthless once a newer one has come (a camera's frames).
    """

    def __init__(self, items: Iterable[T], *, depth: int, may_drop: Callable[[T], bool] = lambda _: False) -> None:
        self.dropped = 0
        """Items that newer ones have replaced."""
        self._items, self._depth, self._may_drop = items, depth, may_drop
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = self._closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="read-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            while not self._waiting and not self._finished:
                self._changed.wait(0.5)  # without a limit Ctrl-C could not interrupt it on Windows
            if self._waiting:
                item = self._waiting.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration

    def close(self) -> None:
        """Stop after the item in progress; waits a moment for it."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(timeout=2.0)

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except Exception as error:
            self._error = error
        finally:
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    def _put(self, item: T) -> bool:
        with self._changed:
            if self._may_drop(item):
                while self._waiting and self._may_drop(self._waiting[-1]):
                    self._waiting.pop()
                    self.dropped += 1
            while len(self._waiting) >= self._depth and not self._closed:
                self._changed.wait()
            if not self._closed:
                self._waiting.append(item)
                self._changed.notify_all()
            return not self._closed
