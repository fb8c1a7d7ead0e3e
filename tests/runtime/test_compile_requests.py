"""Requests for kernels: which goes first, when they end, and what is not built."""

from __future__ import annotations

import io
import json
import os

import pytest

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.target import Target
from onnxplan.runtime.compile_requests import Request, RequestQueue, serve
from onnxplan.runtime.cpu.target import detect_target
from onnxplan.runtime.shared_build import build_if_free
from onnxplan.runtime.store import KernelStore, StoredCode

SECONDS = 60.0
EFFORT = {"map": 0, "pool": 1, "conv": 2}


def effort(spec: KernelSpec) -> int:
    return EFFORT[spec.family]


def request(family, number=0, directory="nowhere"):
    return Request(str(directory), f"{family}{number}", "cpu", KernelSpec(family, (number,)))


class Asking:
    """A queue, and the end of the pipe at which requests are made."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.stream = os.fdopen(writing, "wb")
        self.queue = RequestQueue(os.fdopen(reading, "rb"), effort)

    def ask(self, *requests):
        for each in requests:
            self.stream.write(json.dumps(each.to_json()).encode() + b"\n")
        self.stream.flush()

    def received(self, count):
        with self.queue._changed:
            assert self.queue._changed.wait_for(lambda: len(self.queue._waiting) >= count, SECONDS)


def test_the_longest_goes_first_of_those_that_came_and_each_key_once():
    asking = Asking()
    first = [request("map"), request("pool"), request("map"), request("pool", 1)]
    asking.ask(*first)
    asking.received(3)
    assert asking.queue.take(SECONDS) == request("pool")
    asking.ask(request("conv"))
    asking.received(3)
    found = [asking.queue.take(SECONDS) for _ in range(3)]
    assert found == [request("conv"), request("pool", 1), request("map")]
    assert asking.queue.take(0) is None
    asking.stream.close()


def test_what_is_left_is_dropped_at_the_end_of_the_stream():
    lines = json.dumps(request("map").to_json()).encode() + b"\n"
    queue = RequestQueue(io.BytesIO(lines), effort)
    with queue._changed:
        assert queue._changed.wait_for(lambda: queue._ended, SECONDS)
    assert queue.take(SECONDS) is None


def test_serving_builds_what_is_missing_and_nobody_else_builds(tmp_path):
    asking, built = Asking(), []
    store = KernelStore(tmp_path)
    names = ("map", "pool", "conv")
    mine, others, theirs = (request(name, directory=tmp_path) for name in names)
    store.put(others.key, StoredCode("there", b"code"))
    claim = store.claim(theirs.key)
    asking.ask(mine, others, theirs)
    asking.received(3)

    def build(spec: KernelSpec, target: Target):
        built.append(spec)
        return StoredCode("made", b"code")

    serve(asking.queue, detect_target(1), build, 0.1)
    assert built == [mine.spec]
    assert store.get(mine.key) == StoredCode("made", b"code")
    assert store.get(others.key) == StoredCode("there", b"code")
    assert store.get(theirs.key) is None
    claim()
    asking.stream.close()


def test_a_right_to_build_is_given_back_where_building_fails(tmp_path):
    store = KernelStore(tmp_path)

    def fail():
        raise RuntimeError("no code")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no code"):
            build_if_free(store, "ab" * 32, fail, "cpu")
    claim = store.claim("ab" * 32)
    assert claim is not None
    claim()
