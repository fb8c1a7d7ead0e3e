"""Locks between processes: one owner at a time, and none that is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from onnxplan.runtime.file_lock import try_lock

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# The owner of a lock, who lives until it is killed; with an argument so does a child that it forked.
OWNER = r"""
import os, sys, time
from pathlib import Path
from onnxplan.runtime.file_lock import try_lock
lock = try_lock(Path(sys.argv[1]))
if len(sys.argv) > 2 and (child := os.fork()):
    os.write(1, b"%d\n" % child)
else:
    os.write(1, b"held\n" if lock else b"not held\n")
time.sleep(60)
"""


def start_owner(path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", OWNER, str(path), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_one_owner_at_a_time(tmp_path):
    path = tmp_path / "lock"
    lock = try_lock(path)
    assert lock is not None
    assert try_lock(path) is None
    assert try_lock(tmp_path / "other") is not None
    lock.release()
    assert not path.exists()
    again = try_lock(path)
    assert again is not None
    again.release()


def test_file_of_a_dead_owner_is_no_lock(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    lock = try_lock(path)
    assert lock is not None
    lock.release()


def test_no_folder_and_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        try_lock(tmp_path / "none" / "lock")
    with pytest.raises(OSError, match="directory"):
        try_lock(tmp_path)


@needs_fork
@pytest.mark.parametrize("arguments", [(), ("fork",)])
def test_lock_ends_with_its_owner(tmp_path, arguments):
    """Also if a child of the owner lives on."""
    path = tmp_path / "lock"
    with start_owner(path, *arguments) as owner:
        words = [owner.stdout.readline().strip() for _ in range(1 + len(arguments))]
        try:
            assert "held" in words
            assert try_lock(path) is None
            owner.kill()
            owner.wait()
            lock = try_lock(path)
            assert lock is not None
            lock.release()
        finally:
            owner.kill()
            for child in filter(str.isdecimal, words):
                os.kill(int(child), signal.SIGKILL)


def test_threads_that_hurry_never_hold_it_together(tmp_path):
    """Files are removed with each release, so that many locks are on files that were just removed."""
    path = tmp_path / "lock"
    owners, most, taken = [], [], []

    def hurry() -> None:
        for _ in range(200):
            lock = try_lock(path)
            if lock is not None:
                owners.append(None)
                most.append(len(owners))
                owners.pop()
                taken.append(None)
                lock.release()

    threads = [threading.Thread(target=hurry) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken
    assert max(most) == 1
    assert not path.exists()
