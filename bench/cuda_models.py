"""Whole models on a GPU beside PyTorch, eager and compiled with CUDA graphs.

Models are prepared several at a time, each in a process of its own, and measured one at a time while the
others wait: exporting and compiling take minutes, and would disturb what is measured.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import models
from bench.record import Row
from bench.supervised import first_lines

Array = npt.NDArray[Any]
Call = Callable[[], Any]
BATCHES = (1, 32)
ROUNDS = 6
TOLERANCE = 2e-3
"""Largest difference from PyTorch, relative to the largest element; its float32 is summed in other orders."""

ORDER = (
    "resnet50 bert_base gpt2_decode vit_base mobilenetv2 minilm_l6 "
    "gpt2_prefill convnext_tiny efficientnet_b0 lstm2 whisper_tiny_encoder tiny_mlp"
).split()
"""The models that say most come first."""


@dataclass
class Engines:
    """What is measured for one batch size: calls that run the model once and wait for the device."""

    on_device: dict[str, Call] = field(default_factory=dict)
    from_host: dict[str, Call] = field(default_factory=dict)


class ModelBench:
    """A model in all engines, on ``device``; ``notes`` says what could not be had."""

    def __init__(self, name: str, device: str, batches: Sequence[int] = BATCHES) -> None:
        import onnxplan

        self.name, self.device, self.batches = name, device, tuple(batches)
        self.notes: list[str] = []
        self.engines = {batch: Engines() for batch in batches}
        self._cuda = device.startswith("cuda")
        self._session = onnxplan.InferenceSession(models.path(name, dynamic=True), device=device)
        self._feeds = {batch: models.feeds(name, batch=batch) for batch in batches}
        for batch in batches:
            self._add_ours(batch)
        try:
            self._add_torch()
        except Exception as error:
            # Any trouble of a peer leaves our own figures.
            self.notes.append(f"no torch: {first_lines(error)}")

    def _synchronize(self) -> None:
        if self._cuda:
            from onnxplan.runtime.cuda.api import load_api

            load_api().runtime.deviceSynchronize()

    def _add_ours(self, batch: int) -> None:
        session, feeds = self._session, self._feeds[batch]
        self.engines[batch].from_host["onnxplan"] = lambda: session.run_sync(feeds)
        if not self._cuda:
            self.engines[batch].on_device["onnxplan"] = lambda: session.run_sync(feeds)
            return
        import cupy

        resident = {name: cupy.asarray(array) for name, array in feeds.items()}

        def run() -> None:
            session.run_sync(resident, outputs="device")
            self._synchronize()

        self.engines[batch].on_device["onnxplan"] = run

    def _add_torch(self) -> None:
        import torch

        # What strict means here: no TensorFloat-32 anywhere.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        place = "cuda" if self._cuda else "cpu"
        self._module = models.ZOO[self.name].build().to(place).eval()
        for batch in self.batches:
            self._check(batch)
            self._add_module(batch, "torch eager", self._module)

    def _torch_inputs(self, batch: int) -> list[Any]:
        import torch

        place = "cuda" if self._cuda else "cpu"
        return [torch.from_numpy(array).to(place) for array in self._feeds[batch].values()]

    def _check(self, batch: int) -> None:
        """Raises ``ValueError`` where the module computes something else than our session."""
        import torch

        with torch.inference_mode():
            expected = self._module(*self._torch_inputs(batch))
        expected = expected if isinstance(expected, tuple) else (expected,)
        results = self._session.run_sync(self._feeds[batch])
        for name, value in zip(self._session.output_names, expected, strict=True):
            right = value.cpu().numpy().astype(np.float64)
            found = results[name].numpy().astype(np.float64)
            error = np.abs(found - right).max() / (np.abs(right).max() or 1.0)
            if not error <= TOLERANCE:
                self.notes.append(f"batch {batch}: {name} differs from torch's by {error:.3g} of its scale")

    def _add_module(self, batch: int, engine: str, module: Any) -> None:
        import torch

        inputs = self._torch_inputs(batch)
        host = [torch.from_numpy(array) for array in self._feeds[batch].values()]
        place = "cuda" if self._cuda else "cpu"

        def on_device() -> None:
            with torch.inference_mode():
                module(*inputs)
            self._synchronize()

        def from_host() -> None:
            with torch.inference_mode():
                results = module(*(tensor.to(place) for tensor in host))
                results = results if isinstance(results, tuple) else (results,)
                for tensor in results:
                    tensor.cpu()

        self.engines[batch].on_device[engine] = on_device
        self.engines[batch].from_host[engine] = from_host

    def compile_peer(self) -> None:
        """Adds ``torch.compile`` with CUDA graphs; raises whatever it raises."""
        import torch

        for batch in self.batches:
            module = torch.compile(self._module, mode="reduce-overhead", dynamic=False)
            self._add_module(batch, "torch.compile", module)
            for _ in range(3):
                self.engines[batch].on_device["torch.compile"]()

    def measure(self, seconds: float) -> list[Row]:
        """Medians, ours beside each peer, from blocks in turn; ``seconds`` for each engine and form."""
        rows: list[Row] = []
        for batch, engines in self.engines.items():
            for form, calls in (("on the device", engines.on_device), ("from the host", engines.from_host)):
                label = f"{self.name}, batch {batch}, {form}"
                medians = interleave(calls, seconds)
                ours = medians.pop("onnxplan")
                if not medians:
                    rows.append(Row(label, 1e3 * ours, "ms"))
                rows += [Row.of_times(label, ours, peer, theirs) for peer, theirs in medians.items()]
        return rows


def interleave(calls: dict[str, Call], seconds: float, rounds: int = ROUNDS) -> dict[str, float]:
    """The median time of each call in seconds, from blocks in turn after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call()
    for number in range(rounds):
        order = list(calls) if number % 2 == 0 else list(reversed(calls))
        for name in order:
            times[name] += list(_block(calls[name], seconds / rounds))
    return {name: float(np.median(values)) for name, values in times.items()}


def _block(call: Call, seconds: float) -> Iterator[float]:
    """Run times of as many calls as fit; two at least. The first one fills the caches again."""
    call()
    spent, count = 0.0, 0
    while spent < seconds or count < 2:
        start = time.perf_counter()
        call()
        taken = time.perf_counter() - start
        spent, count = spent + taken, count + 1
        yield taken


def serve(pipe: Connection, name: str, device: str, batches: Sequence[int]) -> None:
    """Does what the parent asks for, and answers with a result or the text of an error."""
    bench: ModelBench | None = None
    while True:
        order, argument = pipe.recv()
        if order == "end":
            # Some engines hang or crash while the interpreter tears down; there is nothing left to save.
            os._exit(0)
        try:
            answer: Any = None
            if order == "prepare":
                bench = ModelBench(name, device, batches)
                answer = bench.notes
            elif bench is not None and order == "compile":
                bench.compile_peer()
            elif bench is not None and order == "measure":
                answer = bench.measure(argument)
            pipe.send((True, answer))
        except Exception as error:
            pipe.send((False, first_lines(error)))


class Process:
    """A model's process. Whatever becomes of it, :meth:`answer` returns in time."""

    def __init__(self, name: str, device: str, batches: Sequence[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, remote = context.Pipe()
        self._process = context.Process(target=serve, args=(remote, name, device, batches), daemon=True)
        self._process.start()
        remote.close()
        self.alive = True

    def ask(self, order: str, argument: Any = None) -> None:
        try:
            self._pipe.send((order, argument))
        except OSError:
            self.alive = False

    def answer(self, deadline: float) -> tuple[bool, Any]:
        """Whether it did what it was asked to, and the result or the reason; ends it if it is late."""
        try:
            if self.alive and self._pipe.poll(max(0.0, deadline - time.monotonic())):
                done, value = self._pipe.recv()
                return bool(done), value
            reason = "it was not ready in time"
        except (EOFError, OSError):
            self._process.join(5)
            reason = f"its process ended with status {self._process.exitcode}"
        self.end()
        return False, reason

    def end(self) -> None:
        if self.alive:
            self.alive = False
            with contextlib.suppress(OSError):
                self._pipe.send(("end", None))
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(2)


def measure_group(
    names: Sequence[str], device: str, deadline: float, seconds: float, batches: Sequence[int] = BATCHES
) -> tuple[list[Row], dict[str, list[str]]]:
    """Rows and notes of several models: prepared together, measured in turn, at the latest by ``deadline``.

    A third of the time is for preparing, a third for compiling the peer; models that need longer are left
    out, with a note.
    """
    share = max(0.0, deadline - time.monotonic()) / 3
    processes = [Process(name, device, batches) for name in names]
    notes: dict[str, list[str]] = {name: [] for name in names}
    rows: dict[str, list[Row]] = {name: [] for name in names}
    ready = _together(processes, "prepare", time.monotonic() + share, notes)
    _in_turn(ready, seconds, deadline, rows, notes)
    compiled = _together(ready, "compile", min(time.monotonic() + share, deadline), notes)
    _in_turn(compiled, seconds, deadline, rows, notes)
    for process in processes:
        process.end()
    return [row for name in names for row in rows[name]], {name: text for name, text in notes.items() if text}


def _together(
    processes: Sequence[Process], order: str, deadline: float, notes: dict[str, list[str]]
) -> list[Process]:
    """Has all processes do something at the same time; those that did it."""
    for process in processes:
        process.ask(order)
    found = []
    for process in processes:
        done, value = process.answer(deadline)
        if done:
            found.append(process)
            notes[process.name] += value or []
        else:
            notes[process.name].append(f"{order}: {value}")
    return found


def _in_turn(
    processes: Sequence[Process],
    seconds: float,
    deadline: float,
    rows: dict[str, list[Row]],
    notes: dict[str, list[str]],
) -> None:
    """Measures one process after the other; a later measurement with more peers replaces an earlier one."""
    for process in processes:
        if time.monotonic() > deadline - seconds:
            notes[process.name].append("measure: no time was left")
            continue
        process.ask("measure", seconds)
        done, value = process.answer(deadline)
        if done:
            rows[process.name] = value
        else:
            notes[process.name].append(f"measure: {value}")
