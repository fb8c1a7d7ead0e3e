"""Checking feeds and fetches: complaints name the input and say what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxplan.arrays import on_device, to_array
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidFeedsError
from onnxplan.compiler.ir import Dim, Value
from onnxplan.runtime.device import AnyArray, Device, DeviceTensor


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, element type and dims of an input or output.

    A dim is an int, the name of a symbolic dimension, or ``None`` where the model says nothing; ``dims`` is
    ``None`` where it does not even give the rank, ``type`` where it declares no tensor.
    """

    name: str
    type: str | None
    dims: tuple[Dim, ...] | None

    @staticmethod
    def of(value: Value) -> TensorInfo:
        if value.type is None:
            return TensorInfo(value.name, None, None)
        return TensorInfo(value.name, value.type.dtype.label, value.type.shape)

    def completed(self, planned: tuple[tuple[int, ...], np.dtype[Any]] | None) -> TensorInfo:
        """With what a plan tells about it, where the model itself leaves something open."""
        if planned is None:
            return self
        shape, dtype = planned
        return TensorInfo(self.name, DType.from_numpy(dtype).label, shape)

    def __str__(self) -> str:
        return f"{self.name}: {describe(self.type, self.dims)}"


def describe(dtype: str | None, dims: Sequence[Dim] | None) -> str:
    """``float32[batch, 4]``"""
    if dims is None:
        return f"{dtype or '?'}[...]"
    return f"{dtype or '?'}[{', '.join('?' if dim is None else str(dim) for dim in dims)}]"


def suggest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where a known name is close, and the list of all."""
    import difflib

    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"{hint} (known: {', '.join(map(repr, names))})"


def check_feeds(
    feeds: Mapping[str, Any], inputs: Sequence[TensorInfo], optional: Sequence[TensorInfo], device: Device
) -> dict[str, AnyArray]:
    """The feeds as aligned, C-contiguous arrays of the inputs' types, in the inputs' order.

    They are NumPy arrays or lie in the memory of ``device``, on which the run will be. ``optional`` are
    inputs with a default. Raises :class:`InvalidFeedsError`.
    """
    if not isinstance(feeds, Mapping):
        raise InvalidFeedsError(
            f"feeds must be a mapping from input names to tensors, not {type(feeds).__name__}"
        )
    known = {info.name: info for info in [*inputs, *optional]}
    for name in feeds:
        if name not in known:
            raise InvalidFeedsError(f"the model has no input {name!r}{suggest(str(name), known)}")
    missing = [str(info) for info in inputs if info.name not in feeds]
    if missing:
        what = "these inputs are" if len(missing) > 1 else "this input is"
        raise InvalidFeedsError(f"{what} missing in the feeds: {'; '.join(missing)}")
    arrays = {name: to_array(feeds[name], info, device) for name, info in known.items() if name in feeds}
    check_dims({name: array.shape for name, array in arrays.items()}, known)
    return arrays


def check_dims(shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, TensorInfo]) -> None:
    """Ranks, fixed dimensions, and symbolic dimensions that several inputs share."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, shape in shapes.items():
        info = known[name]
        if info.dims is None:
            continue
        if len(shape) != len(info.dims):
            raise InvalidFeedsError(
                f"input {info} has rank {len(info.dims)}, but a tensor of shape {list(shape)} "
                f"(rank {len(shape)}) was given"
            )
        for axis, (found, dim) in enumerate(zip(shape, info.dims, strict=True)):
            if isinstance(dim, int) and found != dim:
                raise InvalidFeedsError(
                    f"input {info}: dimension {axis} is {found} in the given shape {list(shape)}, "
                    f"expected {dim}"
                )
            if isinstance(dim, str):
                size, owner = sizes.setdefault(dim, (found, name))
                if size != found:
                    where = "the same input" if owner == name else f"input {owner!r}"
                    raise InvalidFeedsError(
                        f"input {info}: {dim!r} is {found} in the given shape {list(shape)}, "
                        f"but {size} in {where}"
                    )


def check_fetches(fetches: Iterable[str] | None, outputs: Sequence[TensorInfo]) -> tuple[str, ...] | None:
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
    out: Mapping[str, Any], names: Sequence[str], feeds: Mapping[str, AnyArray], device: Device
) -> dict[str, AnyArray]:
    """The arrays that outputs are to be written into; ``names`` are the run's outputs.

    Raises :class:`InvalidFeedsError` where kernels could not write there, or would write over what they
    still have to read.
    """
    if not isinstance(out, Mapping):
        raise InvalidFeedsError(
            f"out must be a mapping from output names to arrays, not {type(out).__name__}"
        )
    seen = [(f"input {name!r}", array) for name, array in feeds.items()]
    targets = {}
    for name, given in out.items():
        if name not in names:
            raise InvalidFeedsError(f"out: the run has no output {name!r}{suggest(str(name), names)}")
        array = _target(name, given, device)
        for other, memory in seen:
            if _overlap(array, memory):
                raise InvalidFeedsError(f"out: {name!r} shares memory with {other}")
        seen.append((f"output {name!r}", array))
        targets[name] = array
    return targets


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
