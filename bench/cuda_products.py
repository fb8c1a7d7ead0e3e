"""Matrix products of the models on a GPU: the plan's algorithm beside all that cuBLASLt offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

import onnxplan
from bench.cuda_models import ORDER
from bench.cuda_plans import Shapes, executor_of, planned_model
from bench.cuda_rates import cuda_runtime
from bench.record import Row
from bench.supervised import Settings
from onnxplan.runtime.cuda.bound_plan import ProductLaunch
from onnxplan.runtime.cuda.matmul import BoundProduct, operand_sizes, workspace_limit
from onnxplan.runtime.cuda.tuning import filled

BATCHES = (1, 32)
MODELS = ORDER[:8]
ALGORITHMS = 32
"""Heuristic results that are timed for each product."""
ROUNDS = 7
FLUSHED = 2
"""So many times the second cache is overwritten before each launch, so that operands come from memory."""
ROW = "product"


def names(settings: Settings) -> list[str]:
    return [f"{name} {batch}" for name in MODELS for batch in BATCHES]


def check(name: str, settings: Settings) -> dict[str, Any]:
    """A row for each product of a model's first plan; equal ones once."""
    cuda_runtime(settings)
    with planned_model(name, settings.device) as (session, shapes):
        rows = product_rows(session, shapes, settings)
    return {"rows": [asdict(row) for row in rows]}


def product_rows(session: onnxplan.InferenceSession, shapes: Shapes, settings: Settings) -> list[Row]:
    """Times of the products in the plan for input ``shapes``, beside the best algorithm of each."""
    runtime = cuda_runtime(settings)
    executor = executor_of(session, shapes)
    launches = executor._shared.bound.launches
    products = {item.product.product: item.product for item in launches if isinstance(item, ProductLaunch)}
    with executor.context.active("timing products"):
        return [_row(runtime, executor, bound) for bound in products.values()]


def _row(runtime: Any, executor: Any, bound: BoundProduct) -> Row:
    context, target = executor.context, executor.plan.target
    limit = workspace_limit(target.isa)
    offered = bound.algorithms(ALGORITHMS, limit)
    memory = [filled(context, size, dtype) for size, dtype in operand_sizes(bound.product)]
    a, b, bias, d = (block.ptr for block in memory)
    workspace = context.allocate(limit, "timing products")
    flushed_bytes = FLUSHED * target.cache_bytes[1]
    flushed = context.allocate(flushed_bytes, "timing products")
    with bound.descriptor(bias) as descriptor:
        launches = [bound.launcher(a, b, d, descriptor, workspace.ptr, choice) for choice in (None, *offered)]
        ours, *others = cold_seconds(
            runtime, launches, lambda stream: runtime.memsetAsync(flushed.ptr, 0, flushed_bytes, stream)
        )
    best = min(others)
    label = f"{ROW}: {bound.product}"
    return Row(label, 1e6 * ours, "us", f"best of {len(others)} algorithms", 1e6 * best, best / ours)


def cold_seconds(
    runtime: Any, launches: Sequence[Callable[[int], None]], flush: Callable[[int], None]
) -> list[float]:
    """The median time of each launch in turn by events, the caches flushed before each."""
    times: list[list[float]] = [[] for _ in launches]
    stream = int(runtime.streamCreateWithFlags(runtime.streamNonBlocking))
    first, last = (int(runtime.eventCreateWithFlags(runtime.eventDefault)) for _ in range(2))
    try:
        # The operands were written on the default stream, which this one does not wait for.
        runtime.deviceSynchronize()
        for round_ in range(1 + ROUNDS):
            for number, launch in enumerate(launches):
                flush(stream)
                runtime.eventRecord(first, stream)
                launch(stream)
                runtime.eventRecord(last, stream)
                runtime.eventSynchronize(last)
                if round_:
                    times[number].append(1e-3 * float(runtime.eventElapsedTime(first, last)))
    finally:
        runtime.streamSynchronize(stream)
        runtime.eventDestroy(first)
        runtime.eventDestroy(last)
        runtime.streamDestroy(stream)
    return [float(np.median(values)) for values in times]
