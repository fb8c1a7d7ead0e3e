"""Profiles as data: sums, groups, JSON."""

import json

import pytest

from onnxplan.profiling import (
    BETWEEN,
    HOST,
    STEP,
    BufferProfile,
    Profile,
    RunEvent,
    StageEvent,
    StageProfile,
    StepProfile,
    TileEvent,
    Timeline,
)
from onnxplan.runtime.ceilings import Ceilings


def profile():
    first = StageProfile(
        0,
        7.0,
        (
            StepProfile(STEP, 0, "conv[f32]", "conv", ("c", "r"), ("Conv", "Relu"), 3.0, 2.5, 600, 30, 1.5),
            StepProfile(STEP, 1, "map[add]", "map", ("a",), ("Add",), 2.0, 1.0, 10, 40, 4.0),
            StepProfile(BETWEEN, None, "stage", "stage", (), (), 0.5),
            StepProfile(HOST, None, "host", "host", ("i",), ("ImageDecoder",), 1.5),
        ),
        "the host decodes",
        128,
        64,
        12,
        (BufferProfile("t", 0, 64, 0, 1),),
    )
    second = StageProfile(
        1,
        2.0,
        (
            StepProfile(STEP, 0, "map[mul]", "map", ("m",), (), 1.0, 1.0, 10, 20, 0.5),
            StepProfile(BETWEEN, None, "stage", "stage", (), (), 1.0),
        ),
        "",
        0,
        0,
        0,
        (),
    )
    timeline = Timeline(
        9.0,
        (StageEvent(0, 0.0, 7.0),),
        (TileEvent(1, 0, 0, 0, 4, 0.5, 1.0), TileEvent(0, 0, None, 0, 1, 6.0, 7.0)),
        (RunEvent(0, "w", 0.0, 1.0, 2.0),),
    )
    return Profile(
        "m.onnx", "cpu", "cpu avx2", 2, "1", 5, 10.0, (first, second), Ceilings(400.0, 10.0, 800.0), timeline
    )


def test_rows_add_up_to_the_run():
    found = profile()
    assert sum(row.seconds for row in found.rows) == found.seconds
    assert found.between_stages == 1.0
    for rows in (found.by_kernel(), found.by_operator()):
        assert sum(row.seconds for row in rows) == found.seconds
        assert [row.seconds for row in rows] == sorted((row.seconds for row in rows), reverse=True)
        assert sum(row.count for row in rows) == len(found.rows)


def test_groups():
    found = {row.family: row for row in profile().by_kernel()}
    assert (found["map"].seconds, found["map"].count, found["map"].nodes) == (3.0, 2, ("a", "m"))
    assert (found["map"].flops, found["map"].bytes, found["map"].ceiling) == (20, 60, 4.5)
    assert found["stage"].kind == BETWEEN
    assert found["host"].kind == HOST
    operators = {row.family: row.seconds for row in profile().by_operator()}
    assert operators == {
        "Conv + Relu": 3.0, "Add": 2.0, "unknown": 1.0, "ImageDecoder": 1.5, "stage": 1.5, "run": 1.0,
    }  # fmt: skip


def test_rates_of_a_row():
    row = profile().stages[0].steps[0]
    assert (row.flops_per_second, row.bytes_per_second) == (200.0, 10.0)
    assert (row.ceiling_share, row.lost) == (0.5, 1.5)
    assert profile().share(row) == 0.3
    empty = StepProfile(STEP, 0, "map", "map", (), (), 0.0, flops=4, ceiling=1.0)
    assert empty.flops_per_second == empty.ceiling_share == empty.lost == 0.0


def test_json_gives_an_equal_profile_back():
    found = profile()
    assert Profile.from_json(found.to_json()) == found
    bare = found.without_timeline()
    assert bare.timeline is None
    assert Profile.from_json(bare.to_json()) == bare


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda data: data.pop("runs"), "Profile has other fields"),
        (lambda data: data.update(runs=1.5), "Profile.runs is not a 64-bit integer"),
        (lambda data: data.update(seconds="1"), "Profile.seconds is not a number"),
        (lambda data: data.update(stages=3), "Profile.stages is not a list"),
        (lambda data: data["stages"][1]["rows"][0].update(nodes=[3]), r"stages\[1\].rows\[0\].nodes\[0\]"),
        (lambda data: data.update(seconds=float("nan")), "Profile.seconds is not finite"),
    ],
)
def test_other_documents_are_refused(change, where):
    data = json.loads(profile().to_json())
    change(data)
    with pytest.raises(ValueError, match=where):
        Profile.from_json(json.dumps(data))
