"""A child of this process: what it has of it, and what it has not."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from onnxplan.runtime import forked_process
from onnxplan.runtime.forked_process import ForkedProcess, can_fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked there")

SECONDS = 60.0


def test_it_reads_what_is_written_and_ends(tmp_path):
    found = tmp_path / "found"
    process = ForkedProcess(lambda stream: found.write_bytes(stream.read()))
    assert process.poll() is None
    process.stdin.write(b"what was asked")
    process.stdin.close()
    assert process.wait() == 0
    assert found.read_bytes() == b"what was asked"
    process.kill()


def test_it_has_no_other_file_open_and_says_nothing(tmp_path, capfd):
    reading, writing = os.pipe()
    found = tmp_path / "found"

    def work(stream):
        print("text")
        os.write(2, b"trouble")
        found.write_text(" ".join(sorted(os.listdir("/proc/self/fd"), key=int)))

    process = ForkedProcess(work)
    os.close(writing)
    # The end of the stream comes only when nobody has it open for writing.
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert process.wait() == 0
    # One more for listing them.
    assert found.read_text() == "0 1 2 3"
    assert capfd.readouterr() == ("", "")
    process.stdin.close()


def test_a_failure_is_its_status(capfd):
    def fail(stream):
        raise RuntimeError("nobody sees this")

    process = ForkedProcess(fail)
    assert process.wait() == 1
    assert capfd.readouterr().err == ""
    process.stdin.close()


def test_it_is_killed_and_found_dead_also_where_somebody_else_waits():
    process = ForkedProcess(lambda stream: time.sleep(SECONDS))
    process.kill()
    assert process.wait() == -9
    assert process.poll() == -9
    process.stdin.close()
    other = ForkedProcess(lambda stream: None)
    os.waitpid(other.pid, 0)
    assert other.wait() == 0
    other.stdin.close()


def test_it_is_not_killed_where_somebody_waits_for_it_meanwhile(monkeypatch):
    process = ForkedProcess(lambda stream: None)
    os.waitpid(process.pid, 0)
    monkeypatch.setattr(process, "poll", lambda: None)
    process.kill()
    assert process.wait() == 0
    process.stdin.close()


def test_interrupts_and_handlers_are_its_owners(tmp_path):
    handled, ready = tmp_path / "handled", tmp_path / "ready"
    before = signal.signal(signal.SIGUSR1, lambda *_: handled.write_text("in the child"))
    try:
        process = ForkedProcess(lambda stream: (ready.touch(), stream.read()))
        while not ready.exists():
            time.sleep(0.01)
        # Signals are delivered in the order of their numbers.
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGUSR1)
        assert process.wait() == -signal.SIGUSR1
        process.stdin.close()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not handled.exists()


def test_no_exit_handler_of_this_process_runs_in_it(tmp_path):
    import atexit

    trace = tmp_path / "trace"
    handler = lambda: trace.write_text("ran")  # noqa: E731
    atexit.register(handler)
    try:
        process = ForkedProcess(lambda stream: None)
        assert process.wait() == 0
        process.stdin.close()
    finally:
        atexit.unregister(handler)
    assert not trace.exists()


def test_a_process_of_several_threads_is_not_forked(monkeypatch):
    monkeypatch.setattr(sys, "_current_frames", lambda: {0: None})
    monkeypatch.setattr(forked_process, "_resident_bytes", lambda: 1)
    assert can_fork()
    with monkeypatch.context() as patch:
        patch.setenv("ONNXPLAN_FORK", "0")
        assert not can_fork()
    with monkeypatch.context() as patch:
        patch.setattr(forked_process, "LARGEST_BYTES", 0)
        assert not can_fork()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert not can_fork()
    found = []
    thread = threading.Thread(target=lambda: found.append(can_fork()))
    thread.start()
    thread.join()
    assert found == [False]
    monkeypatch.undo()
    event = threading.Event()
    waiting = threading.Thread(target=event.wait)
    waiting.start()
    assert not can_fork()
    event.set()
    waiting.join()
