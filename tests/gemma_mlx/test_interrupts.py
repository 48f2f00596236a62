"""Interrupts that are raised, raised again where they were dropped, or kept back for a moment."""

import contextlib
import signal
import threading
import time
import weakref

import pytest

from gemma_mlx.system import interrupts
from gemma_mlx.system.interrupts import held, interruptible, unhandled

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def handlers():
    return [signal.getsignal(n) for n in (*SIGNALS, signal.SIGALRM)]


@pytest.fixture(autouse=True)
def unchanged():
    before = handlers()
    yield
    assert handlers() == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(interrupts, "_AGAIN", 0.05)


def wait():
    """Long enough for a dropped interrupt to come again."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.parametrize("number", SIGNALS)
class TestInterruptible:
    def test_raises(self, number):
        with pytest.raises(KeyboardInterrupt), interruptible():
            signal.raise_signal(number)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_dropped_by_python(self, number, soon):
        """What is raised in a weak reference's callback goes nowhere."""
        thing = threading.Event()
        reference = weakref.ref(thing, lambda _: signal.raise_signal(number))

        @interruptible()
        def work():
            nonlocal thing
            thing = None
            assert reference() is None
            wait()

        with pytest.raises(KeyboardInterrupt):
            work()
        assert thing is None

    def test_dropped_again_and_again(self, number, soon):
        dropped = []

        @interruptible()
        def work():
            for _ in range(3):
                try:
                    signal.raise_signal(number) if not dropped else wait()
                except KeyboardInterrupt as error:
                    dropped.append(error)
            wait()

        with pytest.raises(KeyboardInterrupt):
            work()
        assert len(dropped) == 3

    def test_not_raised_again_afterwards(self, number, soon):
        with contextlib.suppress(KeyboardInterrupt), interruptible():
            signal.raise_signal(number)
        time.sleep(0.15)

    def test_held(self, number):
        reached = []

        @interruptible()
        def work():
            with held():
                signal.raise_signal(number)
                signal.raise_signal(number)
                reached.append("the end of what is held")
            reached.append("what comes after")

        with pytest.raises(KeyboardInterrupt):
            work()
        assert reached == ["the end of what is held"]


def test_nothing_to_hold():
    with interruptible(), held():
        pass


def test_other_threads_have_no_signals():
    errors = []

    def work():
        try:
            with interruptible(), held():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


def test_left_to_the_system_for_a_while():
    before = handlers()
    with unhandled():
        assert handlers() == [signal.SIG_DFL] * 3
    assert handlers() == before


def test_another_thread_leaves_handlers_alone():
    found = []

    def look():
        with unhandled(), held(), interruptible():
            found.append(handlers())

    before = handlers()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]
