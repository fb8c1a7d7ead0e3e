"""How products are cut into tiles."""

from dataclasses import replace

import harness
import pytest

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu.tiling import Problem, cut, depth_block, register_tile

F32 = DType.FLOAT32


def tiling(rows, columns, depth, threads, batch=1):
    target = replace(harness.make_target("avx512", threads), cache_bytes=(48 << 10, 2 << 20))
    tile = register_tile(target, F32, columns)
    block = depth_block(target, tile, depth, 4, rows, columns)
    problem = Problem(batch, rows, columns, depth, 4, 4, 4)
    return cut(target, tile, problem, depth=block, depth_blocks=-(-depth // block))


def shares_rows(found, threads):
    """Does each thread have one part of the rows, by all columns?"""
    return found.row_tiles == threads and found.along_columns


@pytest.mark.parametrize(("columns", "depth"), [(160, 960), (192, 1152), (960, 160)])
def test_threads_share_few_rows_where_their_shares_of_columns_are_uneven(columns, depth):
    """Half of 160 columns is 1.25 panels, and of 960 it is 7.5; of 49 rows there are 24 and 25."""
    found = tiling(49, columns, depth, 2)
    assert shares_rows(found, 2)
    assert found.steps == (found.column_tiles, 1)


@pytest.mark.parametrize(
    ("rows", "columns", "depth"),
    [
        pytest.param(49, 128, 1000, id="even columns"),
        pytest.param(49, 1152, 192, id="many even columns"),
        pytest.param(40, 160, 960, id="too few rows"),
        pytest.param(49, 160, 4000, id="much of B"),
    ],
)
def test_threads_do_not_share_rows_where_they_would_gain_nothing(rows, columns, depth):
    assert not shares_rows(tiling(rows, columns, depth, 2), 2)


def test_few_register_tiles_meet_blocks_that_stay_in_the_first_cache():
    """Rows enough to make up for waiting for a whole panel of B do so only where there are several panels."""
    target = harness.make_target("avx512")
    tile = register_tile(target, F32)
    narrow, wide, unknown = (depth_block(target, tile, 600, 4, 196, columns) for columns in (96, 768, None))
    assert narrow * tile.width * 4 < target.cache_bytes[0]
    assert narrow % 8 == 0
    assert wide == unknown == 600


def test_one_thread_and_batches_share_no_rows():
    assert tiling(49, 160, 960, 1).tiles == 1
    assert not shares_rows(tiling(49, 160, 960, 2, batch=30), 2)
