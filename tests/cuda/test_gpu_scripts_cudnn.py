"""The scripts for a GPU where the stand-in has cuDNN."""

import pytest
from small_layers import SMALL_LAYERS
from standin import StandIn

from bench import cuda_attention, cuda_bars, cuda_convolutions
from bench.supervised import Settings
from onnxplan.runtime.cuda.api import use_api
from tests.cuda import gpu_library


@pytest.fixture
def settings(tmp_path):
    """Those of a device without cuDNN, until a test installs it."""
    made = StandIn()
    with use_api(made.api()):
        yield Settings(folder=str(tmp_path))
    assert not made.violations


@pytest.mark.parametrize("kind", gpu_library.KINDS)
@pytest.mark.parametrize("dtype", list(gpu_library.DTYPES))
def test_attention_by_cudnn(settings, kind, dtype):
    case = gpu_library.Case(kind, dtype, 16, 1, 4, 64, 72)
    installed = StandIn()
    installed.has_cudnn = True
    with use_api(installed.api()):
        assert gpu_library.compare(case, settings)["cudnn"]
        installed.cudnn.engines = []
        details = gpu_library.compare(case, settings)
        assert not details["cudnn"]
        (line,) = details["log"]
        assert "it offers no engine; our own kernel computes it" in line
    assert not installed.violations


@pytest.mark.parametrize("causal", [False, True])
def test_attention_through_cudnn_is_a_row_where_it_computes_it(settings, causal):
    torch = pytest.importorskip("torch")
    asked = []

    class PeerOnCpu(cuda_attention.TorchAttention):
        def __init__(self, *operands):
            super().__init__(torch, "cpu", cuda_attention.CUDNN, *operands)

        def _ordered(self):
            asked.append(self._order[0])
            return super()._ordered()

        def launch(self, stream):
            pass

    case = cuda_attention.Case(1, 2, 64, 16, causal)
    assert cuda_attention.library_row(case, settings, None) is None
    installed = StandIn()
    installed.has_cudnn = True
    with use_api(installed.api()):
        row = cuda_attention.library_row(case, settings, PeerOnCpu)
        assert row.name == f"attention through cuDNN: {case}"
        # The stand-in says a microsecond for both.
        assert row.value == pytest.approx(1e-12 * case.flops / 1e-6)
        assert row.ratio == pytest.approx(1)
        judged = {bar.name: bar for bar in cuda_bars.judge([row])}
        assert judged["attention through cuDNN beside PyTorch's"].met
        assert judged["attention beside PyTorch's"].met is None
        called = installed.counters.attentions
        assert called
        assert set(asked) == {torch.nn.attention.SDPBackend.CUDNN_ATTENTION}
        installed.cudnn.engines = []
        assert cuda_attention.library_row(case, settings, None) is None
        assert installed.counters.attentions == called
    assert not installed.violations


def test_convolutions_through_cudnn_are_rows_where_it_computes_them(settings):
    torch = pytest.importorskip("torch")

    class PeerOnCpu(cuda_convolutions.TorchLayer):
        def __init__(self, *operands):
            super().__init__(torch, "cpu", *operands)

        def launch(self, stream):
            pass

    assert cuda_convolutions.library_row(SMALL_LAYERS[1], settings, 2, None) is None
    installed = StandIn()
    installed.has_cudnn = True
    with use_api(installed.api()):
        rows = [cuda_convolutions.library_row(layer, settings, 2, PeerOnCpu) for layer in SMALL_LAYERS]
        assert rows[0] is None, "three channels"
        for layer, row in zip(SMALL_LAYERS[1:], rows[1:], strict=True):
            assert row.name == f"convolution through cuDNN: {layer}"
            # The stand-in says a microsecond for both.
            assert (row.value, row.peer_value, row.ratio) == pytest.approx((1, 1, 1))
        judged = {bar.name: bar for bar in cuda_bars.judge(rows[1:])}
        assert judged["convolution through cuDNN beside cuDNN"].met
        called = installed.counters.convolutions
        installed.cudnn.engines = []
        assert cuda_convolutions.library_row(SMALL_LAYERS[1], settings, 2, None) is None
        assert installed.counters.convolutions == called
    assert not installed.violations
