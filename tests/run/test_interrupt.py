from __future__ import annotations

import os
import signal
import threading

import pytest

from sgool.run.interrupt import SIGNALS, Interrupt


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_asks_to_stop(name: str) -> None:
    before = signal.getsignal(getattr(signal, name))
    with Interrupt() as asked:
        assert not asked() and asked.signal is None
        os.kill(os.getpid(), getattr(signal, name))
        assert asked() and asked.signal == name
    assert signal.getsignal(getattr(signal, name)) is before


def test_the_first_signal_counts_and_all_are_forwarded() -> None:
    seen: list[int] = []
    with Interrupt() as asked:
        asked.forward = seen.append
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.signal == "SIGUSR1"
    assert seen == [signal.SIGUSR1, signal.SIGTERM]


def test_the_same_request_may_arrive_twice() -> None:
    # A terminal sends Ctrl+C to all processes of a run, and the first one passes it on.
    with Interrupt() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.signal == "SIGINT"


def test_a_later_second_one_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgool.run.interrupt._SAME_REQUEST", -1.0)
    with pytest.raises(KeyboardInterrupt), Interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_outside_of_the_main_thread_nothing_is_asked() -> None:
    found: list[bool] = []

    def run() -> None:
        with Interrupt() as asked:
            found.append(asked())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]
