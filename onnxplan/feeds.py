"""Checking feeds and fetches: complaints name the input and say what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxplan.arrays import on_device, to_array
from onnxplan.compiler.errors import InvalidFeedsError
from onnxplan.compiler.structures import Absent, Structure, name_tensors
from onnxplan.infos import TensorInfo, ValueInfo, check_dims, may_be_absent
from onnxplan.runtime.bound_stage import BoundStage
from onnxplan.runtime.device import AnyArray, Device, DeviceTensor
from onnxplan.runtime.engine import OutArrays
from onnxplan.structures import to_structure


def suggest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where a known name is close, and the list of all."""
    import difflib

    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"{hint} (known: {', '.join(map(repr, names))})"


def check_feeds(
    feeds: Mapping[str, Any], inputs: Sequence[ValueInfo], optional: Sequence[ValueInfo], device: Device
) -> tuple[dict[str, AnyArray], tuple[tuple[str, Structure[str]], ...]]:
    """The feeds as aligned, C-contiguous arrays of the inputs' types, in the inputs' order.

    They are NumPy arrays or lie in the memory of ``device``, on which the run will be. Behind them is which
    of them make up the inputs that are no tensors. ``optional`` are inputs with a default. Raises
    :class:`InvalidFeedsError`.
    """
    if not isinstance(feeds, Mapping):
        raise InvalidFeedsError(
            f"feeds must be a mapping from input names to tensors, not {type(feeds).__name__}"
        )
    known = {info.name: info for info in [*inputs, *optional]}
    for name in feeds:
        if name not in known:
            raise InvalidFeedsError(f"the model has no input {name!r}{suggest(str(name), known)}")
    missing = [str(info) for info in inputs if info.name not in feeds and not may_be_absent(info)]
    if missing:
        what = "these inputs are" if len(missing) > 1 else "this input is"
        raise InvalidFeedsError(f"{what} missing in the feeds: {'; '.join(missing)}")
    arrays: dict[str, AnyArray] = {}
    structures = []
    infos: dict[str, TensorInfo] = {}
    for name, info in known.items():
        if name not in feeds:
            continue
        if isinstance(info, TensorInfo):
            arrays[name] = to_array(feeds[name], info, device)
            infos[name] = info
            continue
        structure: Structure[str]
        found: dict[str, AnyArray]
        structure, found = name_tensors(name, to_structure(feeds[name], info, device), {*known, *arrays})
        arrays.update(found)
        if not isinstance(structure, str | Absent):
            structures.append((name, structure))
    check_dims({name: arrays[name].shape for name in infos}, infos)
    return arrays, tuple(structures)


def check_fetches(fetches: Iterable[str] | None, outputs: Sequence[ValueInfo]) -> tuple[str, ...] | None:
    """The wanted outputs' names without repetitions, ``None`` for all. Raises :class:`InvalidFeedsError`."""
    if fetches is None:
        return None
    if isinstance(fetches, str | bytes) or not isinstance(fetches, Iterable):
        raise InvalidFeedsError(f"fetches must be a list of output names, not {fetches!r}")
    wanted = list(fetches)
    if not wanted:
        raise InvalidFeedsError("fetches is empty; leave it out to get all outputs")
    known = [info.name for info in outputs]
    for name in wanted:
        if name not in known:
            raise InvalidFeedsError(f"the model has no output {name!r}{suggest(str(name), known)}")
    names = tuple(dict.fromkeys(wanted))
    return None if names == tuple(known) else names


def check_out(
    out: Mapping[str, Any], outputs: Sequence[ValueInfo], feeds: Mapping[str, AnyArray], device: Device
) -> dict[str, OutArrays]:
    """The arrays that outputs are to be written into, in lists for sequences.

    ``outputs`` are those of the run.

    Raises :class:`InvalidFeedsError` where kernels could not write there, or would write over what they
    still have to read.
    """
    if not isinstance(out, Mapping):
        raise InvalidFeedsError(
            f"out must be a mapping from output names to arrays, not {type(out).__name__}"
        )
    seen = [(f"input {name!r}", array) for name, array in feeds.items()]
    targets: dict[str, OutArrays] = {}

    def target(name: str, given: Any) -> AnyArray:
        array = _target(name, given, device)
        for other, memory in seen:
            if _overlap(array, memory):
                raise InvalidFeedsError(f"out: {name!r} shares memory with {other}")
        seen.append((f"output {name!r}", array))
        return array

    known = {info.name: info for info in outputs}
    for name, given in out.items():
        if name not in known:
            raise InvalidFeedsError(f"out: the run has no output {name!r}{suggest(str(name), known)}")
        is_tensor = isinstance(known[name], TensorInfo) and known[name].type is not None
        if isinstance(given, list | tuple) and not is_tensor:
            targets[name] = [target(f"{name}[{position}]", item) for position, item in enumerate(given)]
        else:
            targets[name] = target(name, given)
    return targets


MOST_PAIRS = 16
"""With more outputs times inputs than this, :func:`check_out` is not much slower than :func:`plain_out`."""


def plain_out(
    out: Mapping[str, Any], stage: BoundStage, feeds: Sequence[Any]
) -> tuple[np.ndarray[Any, Any], ...] | None:
    """The arrays for all outputs of ``stage`` where they are NumPy's and raise no doubt, else None.

    Element types, shapes and layouts are left to the executor.
    """
    names = stage.output_names
    if type(out) is not dict or len(out) != len(names) or len(names) * len(feeds) > MOST_PAIRS:
        return None
    if not stage.device.runs_inline:
        return None
    try:
        arrays = tuple([out[name] for name in names])
    except KeyError:
        return None
    seen = list(feeds)
    for array in arrays:
        if type(array) is not np.ndarray or not array.flags.writeable:
            return None
        for other in seen:
            if type(other) is not np.ndarray or np.may_share_memory(array, other):
                return None
        seen.append(array)
    return arrays


def _target(name: str, given: Any, device: Device) -> AnyArray:
    found = on_device(given, device, f"out: {name!r}", copy=False)
    if found is not None:
        return found
    if not isinstance(given, np.ndarray):
        expected = "a NumPy array" if device.name == "cpu" else f"a NumPy array or an array on {device.name}"
        raise InvalidFeedsError(f"out: {name!r} must be {expected}, not {type(given).__name__}")
    if not (given.flags.c_contiguous and given.flags.writeable and given.flags.aligned):
        raise InvalidFeedsError(f"out: {name!r} must be a writable, aligned, C-contiguous array")
    return given


def _overlap(one: AnyArray, other: AnyArray) -> bool:
    """Do the two share memory? That of the host and of a device is never the same."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.may_share_memory(one, other)
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return False
    (first, first_end), (second, second_end) = _range(one), _range(other)
    return first < second_end and second < first_end


def _range(tensor: DeviceTensor) -> tuple[int, int]:
    size = math.prod(tensor.shape) * tensor.dtype.itemsize
    return tensor.pointer, tensor.pointer + size
