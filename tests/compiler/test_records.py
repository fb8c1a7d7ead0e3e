"""Records against the dataclasses that they stand for."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from typing import Any, TypeAlias, get_type_hints

import pytest

from onnxplan.compiler.records import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: float = 2.0
    notes: list[str] = dataclasses.field(default_factory=list, compare=False, repr=False)


@dataclass(slots=True)
class Counted:
    count: int
    made: list[int] = dataclasses.field(init=False, default_factory=list)
    later: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.later = self.count + 1


@dataclass(frozen=True, slots=True)
class Spatial(Point):
    z: int = 0


@dataclass(eq=False)
class Identity:
    value: int


def both(namespace: dict[str, Any], **options: bool) -> tuple[Any, Any]:
    """The class of these annotations and attributes by ``dataclasses`` and as a record."""
    made: list[Any] = []
    decorators: list[Callable[..., Any]] = [dataclasses.dataclass, dataclass]
    for decorator in decorators:
        made.append(decorator(**options)(type("Sample", (), {"__module__": __name__, **namespace})))
    return made[0], made[1]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("slots", [False, True])
@pytest.mark.parametrize("eq", [False, True])
@pytest.mark.parametrize("names", [(), ("a",), ("a", "b"), ("a", "b", "c")])
def test_they_do_what_dataclasses_do(frozen: bool, slots: bool, eq: bool, names: tuple[str, ...]) -> None:
    namespace = {"__annotations__": dict.fromkeys(names, int), **({"c": 5} if "c" in names else {})}
    theirs, ours = both(namespace, frozen=frozen, slots=slots, eq=eq)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert ours.__match_args__ == theirs.__match_args__
    values = tuple(range(len(names)))
    first, second = ours(*values), ours(*values)
    assert repr(first) == repr(theirs(*values))
    assert (first == second) is (theirs(*values) == theirs(*values))
    assert first != theirs(*values)
    assert (ours.__hash__ is None) is (theirs.__hash__ is None)
    if eq and frozen:
        assert hash(first) == hash(theirs(*values))
    assert dataclasses.asdict(first) == dict(zip(names, values, strict=True))
    assert hasattr(first, "__dict__") is not slots
    if names:
        changed = dataclasses.replace(first, a=9)
        assert (changed.a, first.a) == (9, 0)
        assert not eq or changed != second


@pytest.mark.parametrize("arguments", [(), (1, 2, [], 4)])
def test_wrong_arguments_raise(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        Point(*arguments)
    with pytest.raises(TypeError):
        Point(x=1, nothing=2)  # type: ignore[call-arg]


def test_frozen_ones_cannot_be_changed() -> None:
    point = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    assert point.x == 1


def test_fields_have_their_options() -> None:
    first, second = Point(1), Point(1, notes=["other"])
    assert first == second
    assert hash(first) == hash(second)
    assert first.notes is not Point(1).notes
    assert repr(second) == "Point(x=1, y=2.0)"
    counted = Counted(4)
    assert (counted.made, counted.later) == ([], 5)
    counted.count = 6
    assert repr(counted) == "Counted(count=6, made=[], later=5)"


def test_subclasses_have_the_fields_of_both() -> None:
    spatial = Spatial(1, 2.0, [], 3)
    assert (spatial.x, spatial.z) == (1, 3)
    assert spatial != Point(1, 2.0)
    # The base's methods are not those of the subclass, whichever is used first.
    assert Point(1) == Point(1) != Point(2)
    assert repr(Point(1)) == "Point(x=1, y=2.0)"


def test_those_without_equality_are_what_they_are() -> None:
    assert Identity(1) != Identity(1)
    assert len({Identity(1), Identity(1)}) == 2


@pytest.mark.parametrize("value", [Point(1, 3.0, ["note"]), Spatial(1, 2.0, ["note"], 3), Counted(2)])
def test_they_are_copied_and_pickled(value: Any) -> None:
    for other in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert other == value
        assert other is not value


def test_methods_of_their_own_stay() -> None:
    @dataclass(frozen=True, slots=True)
    class Own:
        value: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own)

        def __hash__(self) -> int:
            return 7

        def __repr__(self) -> str:
            return "mine"

    assert Own(1) == Own(2)
    assert (hash(Own(1)), repr(Own(1))) == (7, "mine")


def test_fields_for_keywords_only_are_refused() -> None:
    @dataclass(slots=True)
    class Keyword:
        value: int = dataclasses.field(kw_only=True)

    with pytest.raises(TypeError, match=r"Keyword\.value"):
        Keyword(value=1)


Number: TypeAlias = "int"


@dataclass(frozen=True)
class Annotated:
    number: Number


def test_annotations_are_looked_up_where_the_class_stands():
    assert get_type_hints(Annotated.__init__) == {"number": int, "return": type(None)}
