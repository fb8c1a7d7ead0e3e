"""What the record of kernels' resources says, for the kernels whose speed is memory's."""

from __future__ import annotations

import pytest

from bench import cuda_resources

VECTORS = [name for name in cuda_resources.CASES if not name.startswith(("sum of columns", "trans", "chan"))]


@pytest.fixture(scope="module")
def nvrtc():
    from onnxplan.compiler.errors import DeviceUnavailableError
    from onnxplan.runtime.cuda.api import load_nvrtc

    pytest.importorskip("cupy_backends")
    try:
        return load_nvrtc()
    except DeviceUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("case", VECTORS)
def test_memory_is_accessed_sixteen_bytes_at_a_time(nvrtc, case):
    (found,) = cuda_resources.resources(nvrtc, case, "sm_90")
    assert max(found.loads) == 16
    assert found.loads[16] >= 2
    if "sum" not in case:
        assert max(found.stores) >= 8
    assert found.spills == 0
    assert found.divisions == 0
    assert found.registers <= 96
    assert found.predicted_seconds == found.bytes / cuda_resources.BANDWIDTH


def test_widths_of_accesses():
    ptx = """
        ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1];
        ld.global.nc.u16 %rs1, [%rd2];
        st.global.v2.u64 [%rd3], {%rd4, %rd5};
        ld.shared.f32 %f5, [%r1];
        ld.param.u64 %rd1, [p];
    """
    assert cuda_resources.widths(ptx) == ({2: 1, 16: 1}, {16: 1})


def test_a_record_says_that_nothing_was_measured(nvrtc):
    found = cuda_resources.resources(nvrtc, "add float32", "sm_90")
    (row,) = cuda_resources.rows_of(found)
    assert row.name == "add float32: map, predicted"
    assert row.peer == ""
    assert "not measured" in cuda_resources.PREDICTED
