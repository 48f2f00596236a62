"""Ctrl-C and SIGTERM: they end the work with a KeyboardInterrupt, and none is lost.

Python drops what is raised in a finalizer or in a weak reference's callback, and prints "Exception
ignored in": a Ctrl-C that is handled there would do nothing. A timer raises it again until the
work has ended.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Exit code of a command that was interrupted.
EXIT_CODE = 130

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
# Seconds after which an interrupt that was dropped is raised again; cleaning up takes less.
_AGAIN = 0.5


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it SIGINT and SIGTERM raise KeyboardInterrupt, again and again until it is left."""
    armed = ended = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal armed
        if not ended:
            armed = True
            # Other code may have set its own handler since.
            signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN, _AGAIN)
        raise KeyboardInterrupt

    with _handled(interrupt):
        try:
            yield
        finally:
            ended = True
            if armed:
                signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def held() -> Iterator[None]:
    """Within it SIGINT and SIGTERM do nothing; the first of them takes effect when it is left.

    For work that an exception must not interrupt: PyTorch aborts the process where its import is
    interrupted, and transformers imports it where it is installed.
    """
    noted: list[int] = []
    with _handled(lambda number, _: noted.append(number)):
        yield
    for number in noted[:1]:
        signal.raise_signal(number)


@contextmanager
def unhandled() -> Iterator[None]:
    """Within it SIGINT and SIGTERM end the process at once, as they do without Python.

    For calls that wait outside Python, where no handler runs.
    """
    with _handled(signal.SIG_DFL):
        yield


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """Set the signals' handler, in the main thread: Python lets no other set one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            # None: a handler that isn't Python's.
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
