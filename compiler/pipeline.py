"""From a lowered program to an execution plan: the passes, in order, and what follows them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from onnxplan.compiler.assembly import assemble
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.emit_steps import emit_steps
from onnxplan.compiler.environment import is_on, setting
from onnxplan.compiler.errors import CompilerError, OnnxPlanError
from onnxplan.compiler.passes.bind_outputs import bind_outputs
from onnxplan.compiler.passes.cut_bands import cut_bands
from onnxplan.compiler.passes.elide_copies import elide_copies
from onnxplan.compiler.passes.eliminate_dead import eliminate_dead
from onnxplan.compiler.passes.expand_block_products import expand_block_products
from onnxplan.compiler.passes.fold_affine import fold_affine
from onnxplan.compiler.passes.fold_padding import fold_padding
from onnxplan.compiler.passes.fuse_attention import fuse_attention
from onnxplan.compiler.passes.fuse_epilogues import fuse_epilogues
from onnxplan.compiler.passes.fuse_maps import fuse_maps
from onnxplan.compiler.passes.fuse_norms import fuse_norms
from onnxplan.compiler.passes.fuse_resamples import fuse_resamples
from onnxplan.compiler.passes.inline_scalars import inline_scalars
from onnxplan.compiler.passes.merge_common import merge_common
from onnxplan.compiler.passes.merge_products import merge_products
from onnxplan.compiler.passes.move_factors import move_factors
from onnxplan.compiler.passes.order_operands import order_operands
from onnxplan.compiler.passes.unify_gelu import unify_gelu
from onnxplan.compiler.plan import CompiledPlan
from onnxplan.compiler.program import Program
from onnxplan.compiler.schedule import schedule
from onnxplan.compiler.selection import KernelSelector
from onnxplan.compiler.verify import verify_program

Pass = Callable[[Program, ConstantPool], Program]


def _plain(function: Callable[[Program], Program]) -> Pass:
    return lambda program, pool: function(program)


PASSES: tuple[tuple[str, Pass], ...] = (
    ("eliminate_dead", _plain(eliminate_dead)),
    ("inline_scalars", _plain(inline_scalars)),
    ("merge_common", _plain(merge_common)),
    ("bind_outputs", _plain(bind_outputs)),
    ("fold_affine", fold_affine),
    ("fold_padding", _plain(fold_padding)),
    ("fuse_maps", _plain(fuse_maps)),
    ("move_factors", _plain(move_factors)),
    ("fuse_epilogues", _plain(fuse_epilogues)),
    ("fuse_norms", _plain(fuse_norms)),
    ("elide_copies", _plain(elide_copies)),
    ("merge_products", merge_products),
    ("eliminate_dead", _plain(eliminate_dead)),
)
"""All passes that every device has, in order; a name may occur more than once."""

NECESSARY: tuple[tuple[str, Pass], ...] = (
    ("bind_outputs", _plain(bind_outputs)),
    ("eliminate_dead", _plain(eliminate_dead)),
)
"""The passes without which a program cannot become a plan."""


def passes_for(selector: KernelSelector, optimize: int = 1) -> tuple[tuple[str, Pass], ...]:
    """What a device needs before and wants after :data:`PASSES`; :data:`NECESSARY` if ``optimize`` is 0.

    First go primitives that it has no kernel for, last come those that only some devices have kernels for,
    and expressions as kernels are known by.
    """

    def block_products(program: Program, pool: ConstantPool) -> Program:
        return expand_block_products(program, pool, selector.prefers)

    def attention(program: Program, pool: ConstantPool) -> Program:
        return fuse_attention(program, pool, selector.prefers)

    def resamples(program: Program, pool: ConstantPool) -> Program:
        return fuse_resamples(program, selector.prefers)

    def copies(program: Program, pool: ConstantPool) -> Program:
        return elide_copies(program, selector.prefers)

    def bands(program: Program, pool: ConstantPool) -> Program:
        return cut_bands(program, selector.target)

    first: tuple[str, Pass] = ("expand_block_products", block_products)
    if not optimize:
        return (first, *NECESSARY)
    last: tuple[tuple[str, Pass], ...] = (
        ("cut_bands", bands),
        ("unify_gelu", _plain(unify_gelu)),
        ("order_operands", _plain(order_operands)),
    )
    fused: tuple[tuple[str, Pass], ...] = (("fuse_attention", attention), ("fuse_resamples", resamples))
    return (first, *PASSES, *fused, ("elide_copies", copies), *last)


def compile_program(
    program: Program, selector: KernelSelector, pool: ConstantPool, *, optimize: int = 1
) -> CompiledPlan:
    """The plan of ``program`` for the selector's target, and its constants. Uses up ``program``.

    ``optimize`` 0 runs as little as possible, see :func:`passes_for`. Raises
    :class:`onnxplan.compiler.errors.UnsupportedOperatorError` where the device has no kernel.
    """
    program = optimise(program, pool, passes=passes_for(selector, optimize))
    external = {view.storage for view in (*program.inputs.values(), *program.outputs.values())}
    steps = schedule(emit_steps(program, selector, pool), external)
    return assemble(program, steps, selector.target, pool)


def optimise(
    program: Program,
    pool: ConstantPool,
    *,
    passes: tuple[tuple[str, Pass], ...] = PASSES,
    dump: str | os.PathLike[str] | None = None,
) -> Program:
    """Runs ``passes`` on ``program``, which they may change in place.

    ``dump`` (default: the environment variable ``ONNXPLAN_DUMP``) names a folder for the program's text
    before the first pass and after each. ``ONNXPLAN_STOP_AFTER`` names the last pass to run, besides the
    necessary ones; ``name:2`` is its second occurrence. With ``ONNXPLAN_VERIFY=1``, or when dumping, the
    program is verified before the first pass and after each. Raises :class:`CompilerError`, naming the pass,
    where one fails.
    """
    folder = dump if dump is not None else setting("ONNXPLAN_DUMP")
    verified = folder is not None or is_on("ONNXPLAN_VERIFY")
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    for number, (name, function) in enumerate((("lowering", None), *_until_stop(passes))):
        if function is not None:
            try:
                program = function(program, pool)
            except OnnxPlanError:
                raise
            except Exception as error:
                raise CompilerError(f"pass {name} failed: {type(error).__name__}: {error}") from error
        if folder is not None:
            (Path(folder) / f"{number:02}-{re.sub('[^a-z_0-9]', '_', name)}.txt").write_text(f"{program}\n")
        if verified:
            verify_program(program, after=name)
    program.index = None
    return program


def _until_stop(passes: tuple[tuple[str, Pass], ...]) -> tuple[tuple[str, Pass], ...]:
    """The passes up to the one that ``ONNXPLAN_STOP_AFTER`` names, and the necessary ones after it."""
    stop = setting("ONNXPLAN_STOP_AFTER")
    if stop is None:
        return passes
    name, _, occurrence = stop.partition(":")
    places = [number for number, (own, _) in enumerate(passes) if own == name]
    index = int(occurrence or 1) - 1
    if not 0 <= index < len(places):
        raise ValueError(
            f"ONNXPLAN_STOP_AFTER={stop}: the passes are {', '.join(name for name, _ in passes)}"
        )
    last = places[index] + 1
    return passes[:last] + (NECESSARY if last < len(passes) else ())
