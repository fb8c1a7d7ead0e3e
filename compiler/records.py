"""Dataclasses that are made in a fifth of the time: methods are shared, or compiled when they are first used.

``dataclasses`` compiles up to seven functions for each class, which was half of what importing onnxplan took.
Classes made here are dataclasses in all else: ``fields``, ``replace``, ``asdict`` and ``match`` work on them,
type checkers see ``dataclasses.dataclass``. What differs: ``__dataclass_params__`` does not say that they are
frozen or compared, and attributes of frozen ones cannot be set in subclasses either.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(
        cls: type | None = None, /, *, frozen: bool = False, slots: bool = False, eq: bool = True
    ) -> Any:
        """What ``dataclasses.dataclass`` of these options makes of ``cls``, or a decorator that does."""
        if cls is None:
            return lambda cls: _make(cls, frozen=frozen, slots=slots, eq=eq)
        return _make(cls, frozen=frozen, slots=slots, eq=eq)


def _make(cls: type[Any], *, frozen: bool, slots: bool, eq: bool) -> type[Any]:
    methods: dict[str, Any] = {"__init__": _Written(_initialiser, frozen=frozen), "__repr__": _repr}
    if frozen:
        methods |= {"__setattr__": _refuse_setting, "__delattr__": _refuse_deleting}
    if frozen and slots:
        methods |= {"__getstate__": _get_state, "__setstate__": _set_state}
    if eq:
        methods["__eq__"] = _Written(_equality)
        methods["__hash__"] = _Written(_hash) if frozen else None
    own = vars(cls)
    # A class with an __eq__ of its own has None for __hash__.
    missing = [name for name in methods if name not in own or (name == "__hash__" and own[name] is None)]
    if not cls.__doc__:
        # Else a text is made of a signature that is not there yet.
        cls.__doc__ = cls.__name__
    made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
    for name in missing:
        method = methods[name]
        if isinstance(method, _Written):
            method.belongs_to(made, name)
        setattr(made, name, method)
    return made


class _Written:
    """Stands for a method until it is first looked up; then ``write`` makes it, and the class gets it."""

    def __init__(self, write: Callable[..., types.FunctionType], **options: bool) -> None:
        self._write = write
        self._options = options

    def belongs_to(self, cls: type[Any], name: str) -> None:
        self._cls = cls
        self._name = name

    def __get__(self, instance: object, owner: type[Any] | None = None) -> Any:
        function = self._write(self._cls, **self._options)
        setattr(self._cls, self._name, function)
        return function if instance is None else types.MethodType(function, instance)


def _function(
    cls: type[Any], name: str, parameters: list[str], body: list[str], names: dict[str, Any]
) -> types.FunctionType:
    lines = "\n  ".join(body or ["pass"])
    text = f"def make({', '.join(names)}):\n def {name}({', '.join(parameters)}):\n  {lines}\n return {name}"
    made: dict[str, Any] = {}
    # Annotations are looked up among the function's globals.
    exec(text, vars(sys.modules[cls.__module__]), made)
    function: types.FunctionType = made["make"](**names)
    function.__qualname__ = f"{cls.__qualname__}.{name}"
    function.__module__ = cls.__module__
    return function


_LEFT_OUT = object()


def _initialiser(cls: type[Any], *, frozen: bool) -> types.FunctionType:
    """``__init__`` with a parameter for each field."""
    missing = dataclasses.MISSING
    names: dict[str, Any] = {"_set": object.__setattr__, "_LEFT_OUT": _LEFT_OUT}
    parameters, body = ["self"], []
    for field in dataclasses.fields(cls):
        if field.kw_only:
            raise TypeError(f"{cls.__name__}.{field.name}: fields for keywords only are not supported")
        name, value, default = field.name, field.name, ""
        if field.default is not missing:
            default = f"_default_{name}"
            names[default] = field.default
            value = name if field.init else default
        elif field.default_factory is not missing:
            names[f"_make_{name}"] = field.default_factory
            default = "_LEFT_OUT"
            value = f"_make_{name}() if {name} is _LEFT_OUT else {name}" if field.init else f"_make_{name}()"
        elif not field.init:
            continue
        if field.init:
            parameters.append(f"{name}={default}" if default else name)
        if not frozen:
            body.append(f"self.{name} = {value}")
        elif isinstance(slot := getattr(cls, name, None), types.MemberDescriptorType):
            # A slot's own setter need not look the name up.
            names[f"_set_{name}"] = slot.__set__
            body.append(f"_set_{name}(self, {value})")
        else:
            body.append(f"_set(self, {name!r}, {value})")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    function = _function(cls, "__init__", parameters, body, names)
    types_of = {field.name: field.type for field in dataclasses.fields(cls) if field.init}
    function.__annotations__ = {**types_of, "return": None}
    return function


def _compared(cls: type[Any], record: str) -> str:
    """The tuple of the fields of ``record`` that are compared, as source."""
    return f"({''.join(f'{record}.{field.name}, ' for field in dataclasses.fields(cls) if field.compare)})"


def _equality(cls: type[Any]) -> types.FunctionType:
    same = f"{_compared(cls, 'self')} == {_compared(cls, 'other')}"
    line = f"return {same} if other.__class__ is self.__class__ else NotImplemented"
    return _function(cls, "__eq__", ["self", "other"], [line], {})


def _hash(cls: type[Any]) -> types.FunctionType:
    return _function(cls, "__hash__", ["self"], [f"return hash({_compared(cls, 'self')})"], {})


@recursive_repr()
def _repr(self: Any) -> str:
    parts = [
        f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr
    ]
    return f"{type(self).__qualname__}({', '.join(parts)})"


def _refuse_setting(self: object, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deleting(self: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _get_state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)
