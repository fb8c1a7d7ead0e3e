"""Attention in ``math="fast"`` on a device, where cuDNN computes what it takes, against the CPU."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx.parser

import onnxplan
from bench.cuda_plans import calls_cudnn, executor_of
from bench.supervised import Settings
from tests.cuda.gpu_models import relative_error

DTYPES = {"float16": (np.float16, 10, 1e-2), "bfloat16": (ml_dtypes.bfloat16, 16, 6e-2)}
"""NumPy's type, ONNX's number, and the largest difference relative to the largest element."""
KINDS = ("plain", "causal", "grouped", "masked")


@dataclass(frozen=True, slots=True)
class Case:
    """``kind``: without a mask, with a causal one, that of heads that share keys, or an added one."""

    kind: str
    dtype: str
    width: int
    batch: int = 2
    heads: int = 8
    queries: int = 200
    keys: int = 264

    def __str__(self) -> str:
        return f"{self.kind} attention of {self.dtype}, {self.width} wide"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        own = self.heads // 4 if self.kind == "grouped" else self.heads
        shapes = {
            "q": (self.batch, self.heads, self.queries, self.width),
            **dict.fromkeys("kv", (self.batch, own, self.keys, self.width)),
        }
        return {**shapes, "m": (self.batch, 1, 1, self.keys)} if self.kind == "masked" else shapes

    def model(self) -> onnx.ModelProto:
        def tensor(name: str, shape: tuple[int, ...]) -> str:
            return f"{self.dtype}[{','.join(map(str, shape))}] {name}"

        body = f"z = Attention<is_causal={int(self.kind in ('causal', 'grouped'))}>(q, k, v)"
        if self.kind == "masked":
            # With the operator, a row without any key would be 0, for which cuDNN is not asked.
            body = (
                f"c = Constant<value_float={self.width**-0.5}>() d = Cast<to={DTYPES[self.dtype][1]}>(c) "
                "t = Transpose<perm=[0, 1, 3, 2]>(k) s = MatMul(q, t) u = Mul(s, d) w = Add(u, m) "
                "p = Softmax<axis=-1>(w) z = MatMul(p, v)"
            )
        inputs = ", ".join(tensor(name, shape) for name, shape in self.shapes.items())
        output = tensor("z", self.shapes["q"])
        text = f'<ir_version: 10, opset_import: ["" : 23]> case ({inputs}) => ({output}) {{ {body} }}'
        return onnx.parser.parse_model(text)

    def feeds(self) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(0)
        dtype = DTYPES[self.dtype][0]
        found = {name: generator.standard_normal(shape) for name, shape in self.shapes.items()}
        if "m" in found:
            found["m"] = np.where(found["m"] < -1, -10000.0, 0.0)
        return {name: array.astype(dtype) for name, array in found.items()}


CASES = {str(case): case for case in (Case(k, d, w) for d in DTYPES for w in (64, 128) for k in KINDS)}


def names(settings: Settings) -> list[str]:
    return list(CASES)


def check(name: str, settings: Settings) -> dict[str, Any]:
    return compare(CASES[name], settings)


class _Lines(logging.Handler):
    """Keeps what the log says."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def compare(case: Case, settings: Settings) -> dict[str, Any]:
    """A run and a replay against the CPU; whether cuDNN computed them, and else what the log says."""
    model, feeds = case.model(), case.feeds()
    logger, log = logging.getLogger("onnxplan.cuda"), _Lines()
    worst = 0.0
    logger.addHandler(log)
    try:
        with (
            onnxplan.InferenceSession(model, device=settings.device, math="fast") as session,
            onnxplan.InferenceSession(model) as reference,
        ):
            expected = reference.run_sync(feeds)["z"].numpy()
            for attempt in ("first run", "replay"):
                error = relative_error(session.run_sync(feeds)["z"].numpy(), expected)
                worst = max(worst, error)
                assert error <= DTYPES[case.dtype][2], f"{attempt} differs by {error:.3g} of its scale"
            used = settings.device.startswith("cuda") and calls_cudnn(executor_of(session, case.shapes))
    finally:
        logger.removeHandler(log)
    return {"error": worst, "cudnn": used, "log": log.lines}
