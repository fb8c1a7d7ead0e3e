"""Attention on a GPU, beside PyTorch's ``scaled_dot_product_attention`` of the same tensors.

A second row has the same case in ``math="fast"``, where the plan calls cuDNN for it. PyTorch then tries cuDNN
first, and its other kernels after that.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser

import onnxplan
from bench.cuda_convolutions import compare
from bench.cuda_plans import borrowed_slot, calls_cudnn, executor_of, steps_launch
from bench.cuda_products import cold_seconds
from bench.cuda_rates import cuda_runtime, torch_on_cuda
from bench.record import Row
from bench.supervised import Settings

Array = npt.NDArray[Any]
ROW = "attention"
LIBRARY_ROW = "attention through cuDNN"
PEER = "PyTorch"
CUDNN = "CUDNN_ATTENTION"


@dataclass(frozen=True, slots=True)
class Case:
    """Attention in float16 of ``heads`` heads, ``width`` wide, and as many queries as keys."""

    batch: int
    heads: int
    tokens: int
    width: int
    causal: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.heads, self.tokens, self.width

    @property
    def flops(self) -> int:
        """Of both products; a causal mask leaves half of them."""
        total = 4 * self.batch * self.heads * self.tokens**2 * self.width
        return total // 2 if self.causal else total

    def __str__(self) -> str:
        causal = ", causal" if self.causal else ""
        return f"{self.batch} x {self.heads} heads of {self.width}, {self.tokens} tokens{causal}"

    def model(self) -> onnx.ModelProto:
        tensor = "float16[" + ",".join(map(str, self.shape)) + "]"
        inputs = ", ".join(f"{tensor} {name}" for name in "qkv")
        body = f"z = Attention<is_causal={int(self.causal)}>(q, k, v)"
        text = f'<ir_version: 10, opset_import: ["" : 23]> case ({inputs}) => ({tensor} z) {{ {body} }}'
        return onnx.parser.parse_model(text)


CASES = {str(case): case for case in (Case(8, 16, 2048, w, c) for w in (64, 128) for c in (False, True))}


def names(settings: Settings) -> list[str]:
    return list(CASES)


def check(name: str, settings: Settings) -> dict[str, Any]:
    """Rows for one case, beside PyTorch's where that has CUDA."""
    torch = torch_on_cuda()
    peers = [
        None if torch is None else partial(TorchAttention, torch, "cuda", first) for first in (None, CUDNN)
    ]
    own, through = (
        attention_row(CASES[name], settings, peers[0]),
        library_row(CASES[name], settings, peers[1]),
    )
    return {"rows": [asdict(row) for row in (own, through) if row is not None]}


class TorchAttention:
    """The case in PyTorch on ``place``, which chooses its kernel: on CUDA FlashAttention or cuDNN's.

    ``first`` names the kernel of ``torch.nn.attention.SDPBackend`` that is tried before all others.
    """

    def __init__(
        self, torch: Any, place: str, first: str | None, case: Case, feeds: dict[str, Array]
    ) -> None:
        self._torch, self._causal = torch, case.causal
        self._feeds = [torch.from_numpy(feeds[name]).to(place) for name in "qkv"]
        kernels = torch.nn.attention.SDPBackend
        others = (kernels.FLASH_ATTENTION, kernels.EFFICIENT_ATTENTION, kernels.MATH)
        self._order = None if first is None else [getattr(kernels, first), *others]

    def result(self) -> Any:
        function = self._torch.nn.functional.scaled_dot_product_attention
        with nullcontext() if self._order is None else self._ordered():
            return function(*self._feeds, is_causal=self._causal)

    def _ordered(self) -> Any:
        return self._torch.nn.attention.sdpa_kernel(self._order, set_priority=True)

    def expected(self) -> Array:
        array: Array = self.result().float().cpu().numpy()
        return array

    def launch(self, stream: int) -> None:
        """Queues the attention on a CUDA stream."""
        cuda = self._torch.cuda
        with cuda.stream(cuda.ExternalStream(stream)), self._torch.inference_mode():
            self.result()


MakePeer = Callable[[Case, dict[str, Array]], TorchAttention]


def attention_row(case: Case, settings: Settings, make_peer: MakePeer | None) -> Row:
    """TFLOP/s of our steps; raises ``ValueError`` where they compute something else than the peer."""
    row = _row(case, settings, make_peer, library=False)
    assert row is not None
    return row


def library_row(case: Case, settings: Settings, make_peer: MakePeer | None) -> Row | None:
    """As :func:`attention_row` for steps that cuDNN computes; ``None`` where it computes none."""
    return _row(case, settings, make_peer, library=True)


def _row(case: Case, settings: Settings, make_peer: MakePeer | None, *, library: bool) -> Row | None:
    runtime = cuda_runtime(settings)
    generator = np.random.default_rng(0)
    feeds = {name: generator.standard_normal(case.shape, np.float32).astype(np.float16) for name in "qkv"}
    math = "fast" if library else "strict"
    with onnxplan.InferenceSession(case.model(), device=settings.device, math=math) as session:
        found = session.run_sync(feeds)["z"].numpy()
        executor = executor_of(session, dict.fromkeys(feeds, case.shape))
        if library and not calls_cudnn(executor):
            return None
        peer = make_peer(case, feeds) if make_peer else None
        if peer is not None:
            compare(found, peer.expected())
        with borrowed_slot(executor, "timing attention") as slot:
            launches = [steps_launch(slot), *([peer.launch] if peer is not None else [])]
            # Products take so long that it does not matter where operands are.
            seconds = cold_seconds(runtime, launches, lambda stream: None)
    rates = [1e-12 * case.flops / each for each in seconds]
    label = f"{LIBRARY_ROW if library else ROW}: {case}"
    if peer is None:
        return Row(label, rates[0], "TFLOP/s")
    return Row(label, rates[0], "TFLOP/s", PEER, rates[1], rates[0] / rates[1])
