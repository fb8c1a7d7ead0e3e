"""Specimens: what a minimal node of an operator is made of, for any of the types that its schema allows."""

from __future__ import annotations

import functools
import itertools
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.scalar import WIDE_INTEGERS

Array = npt.NDArray[Any]
Types = Mapping[str, DType]
"""The element type of each type parameter of a schema."""

TEXTS = ("a", "b", "ab", "", "10", "-3", "1.5", "é")


@dataclass(frozen=True, slots=True)
class Draw:
    """A tensor of whole numbers from ``low`` to ``high``, drawn at random; floats are half of them.

    So every element is exact in every type: unsigned types take the absolute values, integers of a few bits
    what fits them, float8e8m0 powers of two, booleans the parity, strings one of ``texts``.
    """

    shape: tuple[int, ...]
    low: int = -4
    high: int = 4
    texts: tuple[str, ...] = TEXTS


@dataclass(frozen=True, slots=True)
class Given:
    """A tensor of these elements, whatever the type."""

    elements: Any


@dataclass(frozen=True, slots=True)
class Many:
    """A sequence of tensors."""

    items: tuple[Draw | Given, ...]


Item = Draw | Given | Many | None


@dataclass(frozen=True, slots=True)
class Specimen:
    """A node for the versions from ``since`` up to the next specimen's.

    ``inputs`` are in the order of the schema, ``None`` where an optional one is missing. ``attributes`` are
    values, or functions of the :data:`Types`. ``outputs`` tells how many outputs the node has, ``elements``
    how many tensors are in those that are sequences.

    ``defaults`` are the types of parameters that are not varied, where the first of float32, int64 and the
    schema's own does not do; ``linked`` names parameters that must have the type of another. ``allows``
    says which combinations of types the text of the standard leaves. With ``pairs`` all combinations are
    meant, and the results depend on the types themselves.

    ``reference`` gives the results in terms of the inputs, floats as float64; without it they are compared
    with another implementation's, or for versions before 7 with those of the next version's specimen. Of
    ``random`` operators only types and shapes are compared. ``tolerance`` is the relative and absolute error
    of floats where that of their type does not do.
    """

    inputs: tuple[Item, ...]
    since: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    defaults: Types = field(default_factory=dict)
    linked: Mapping[str, str] = field(default_factory=dict)
    allows: Callable[[Types], bool] | None = None
    reference: Callable[..., Any] | None = None
    random: bool = False
    pairs: bool = False
    elements: int = 2
    tolerance: tuple[float, float] | None = None


_FIELDS = frozenset(Specimen.__dataclass_fields__) - {"inputs", "attributes"}


def of(*inputs: Item | tuple[int, ...] | Sequence[Any] | float, **settings: Any) -> Specimen:
    """A specimen; tuples are shapes of :class:`Draw`, lists and numbers elements that are :class:`Given`.

    ``settings`` are fields of :class:`Specimen`, all others attributes.
    """
    items: list[Item] = []
    for item in inputs:
        if isinstance(item, tuple):
            items.append(Draw(item))
        elif item is None or isinstance(item, Draw | Given | Many):
            items.append(item)
        else:
            items.append(Given(item))
    fields = {name: settings.pop(name) for name in _FIELDS & settings.keys()}
    return Specimen(tuple(items), attributes=settings, **fields)


def code(parameter: str) -> Callable[[Types], int]:
    """The attribute that names the element type of ``parameter``."""
    return lambda types: types[parameter].code


_STANDARD_NAMES = {"float": "float32", "double": "float64"}


def element_types(texts: Sequence[str]) -> list[DType]:
    """The element types in type strings of a schema: ``tensor(float)``, sequences and optionals of it."""
    found: dict[DType, None] = {}
    for text in texts:
        inner = re.search(r"tensor\((\w+)\)", text)
        if inner is not None and "map" not in text:
            name = _STANDARD_NAMES.get(inner[1], inner[1])
            found[DType.from_label(name)] = None
    return list(found)


@functools.cache
def schemas() -> dict[tuple[str, str], tuple[Any, ...]]:
    """All versions of every operator that the onnx package describes, oldest first, by domain and name."""
    found: dict[tuple[str, str], list[Any]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return {key: tuple(sorted(found[key], key=lambda schema: schema.since_version)) for key in sorted(found)}


@functools.lru_cache(maxsize=2048)
def constraints(schema: Any) -> dict[str, tuple[DType, ...]]:
    """The element types that each type parameter of a schema allows."""
    return {
        constraint.type_param_str: tuple(element_types(constraint.allowed_type_strs))
        for constraint in schema.type_constraints
    }


def default_types(schema: Any, specimen: Specimen) -> dict[str, DType]:
    """The types of a schema's parameters that everybody has."""
    types = {}
    for parameter, allowed in constraints(schema).items():
        preferred = (specimen.defaults.get(parameter), DType.FLOAT32, DType.INT64, *allowed)
        first = next((dtype for dtype in preferred if dtype in allowed), None)
        if first is not None:
            types[parameter] = first
    return types


def all_types(schema: Any, specimen: Specimen) -> list[tuple[str, dict[str, DType]]]:
    """Each type of each parameter once, the others being the default: parameter and types."""
    default = default_types(schema, specimen)
    if specimen.pairs:
        every = constraints(schema)
        products = [dict(zip(every, choice, strict=True)) for choice in itertools.product(*every.values())]
        return [
            (" ".join(every), types)
            for types in products
            if specimen.allows is None or specimen.allows(types)
        ]
    found: list[tuple[str, dict[str, DType]]] = []
    for parameter, allowed in constraints(schema).items():
        if parameter in specimen.linked:
            continue
        for dtype in allowed:
            types = {**default, parameter: dtype}
            types |= {other: types[leader] for other, leader in specimen.linked.items() if other in types}
            if specimen.allows is None or specimen.allows(types):
                found.append((parameter, types))
    return found


def draw(item: Draw | Given, dtype: DType, random: np.random.Generator) -> Array:
    """The tensor that ``item`` describes, in the type ``dtype``."""
    if isinstance(item, Given):
        if dtype is DType.STRING:
            return np.array(item.elements).astype(str).astype(object)
        return np.asarray(item.elements).astype(dtype.numpy)
    whole = random.integers(item.low, item.high, item.shape, endpoint=True)
    if dtype is DType.STRING:
        return np.array([item.texts[n % len(item.texts)] for n in whole.reshape(-1)], object).reshape(
            item.shape
        )
    if dtype is DType.BOOL:
        return np.asarray(whole % 2 == 1)
    if dtype is DType.FLOAT8E8M0:
        return np.asarray(np.exp2(np.abs(whole) % 3).astype(dtype.numpy))
    if dtype.kind == "c":
        return np.asarray(whole / 2 + 0.5j * random.integers(-4, 4, item.shape), dtype.numpy)
    if dtype.is_float:
        return np.asarray(whole / 2).astype(dtype.numpy)
    if dtype in WIDE_INTEGERS:
        bits = int(dtype.label[-1])
        low, high = (0, 2**bits - 1) if dtype.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        whole = np.clip(whole, low, high)
    return (np.abs(whole) if dtype.kind == "u" else whole).astype(dtype.numpy)


def generator(name: str) -> np.random.Generator:
    """The random numbers of the operator called ``name``."""
    return np.random.default_rng(zlib.crc32(name.encode()))
