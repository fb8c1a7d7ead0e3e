"""Which kernels are compiled for which architectures.

All are compiled for :data:`REFERENCE`. Another architecture compiles what its compiler could see differently:
texts that differ or that ask for the architecture and take another path there, and, of each family, so many
kernels that every function, type and instruction that the family uses is among them.

The reference compiles some as the runtime does, to see what they take of a device: these few, and the longest
of each family. The rest, thousands of maps and reductions that differ in an expression, is compiled with
:data:`QUICK`, which passes the same front end and assembler in a third of the time.
``pytest --all-architectures`` compiles everything for all as the runtime does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from kernel_specs import SHARED_KILOBYTES, target_of

from onnxplan.compiler.plan import KernelSpec
from onnxplan.kernels.cuda.registry import build
from onnxplan.kernels.cuda.source import KernelSource
from onnxplan.kernels.scalar_cuda import PRELUDE

ARCHITECTURES = tuple(SHARED_KILOBYTES)
REFERENCE = "sm_90"
QUICK = ("--Ofast-compile=mid",)
"""Options of NVRTC for kernels of which only whether they compile is asked."""
LONGEST = 100
QUESTION = re.compile(r"__CUDA_ARCH__\s*(?P<relation>\S+)\s*(?P<number>\w+)")
WORD = re.compile(r"\b(?:[A-Za-z_]\w*+(?=\s*[(<*])|[a-z]\w*+(?:\.\w++)++)")
"""What is called, instantiated or pointed to, and PTX instructions."""
NUMBERED = re.compile(r"[a-z]\d+")
"""Variables of expressions, of which any number may be."""


def words(source: KernelSource) -> frozenset[str]:
    """The functions, types and instructions that a kernel uses, apart from what all kernels start with."""
    text = source.text.replace(PRELUDE, "").replace(source.symbol, "")
    return frozenset(word for word in WORD.findall(text) if not NUMBERED.fullmatch(word))


def path(text: str, architecture: str) -> tuple[bool, ...]:
    """The answers that a text gets where it asks for the architecture.

    Raises ``ValueError`` if it asks for something else than a least one.
    """
    answers = []
    for found in QUESTION.finditer(text):
        if found["relation"] != ">=" or not found["number"].isdecimal():
            raise ValueError(f"{found[0]!r} is not a question for a least architecture")
        answers.append(10 * int(architecture.removeprefix("sm_")) >= int(found["number"]))
    return tuple(answers)


def is_like(source: KernelSource, other: KernelSource, architecture: str) -> bool:
    """Does the compiler for ``architecture`` read of ``source`` what :data:`REFERENCE` reads of ``other``?"""
    return source.text == other.text and path(source.text, architecture) == path(other.text, REFERENCE)


def new_sources(
    sources: Mapping[KernelSpec, KernelSource],
    reference: Mapping[KernelSpec, KernelSource],
    architecture: str,
) -> dict[KernelSpec, KernelSource]:
    """Those of ``sources``, which are for ``architecture``, that are unlike all of the ``reference``."""
    if architecture == REFERENCE:
        return dict(sources)
    return {
        spec: source
        for spec, source in sources.items()
        if spec not in reference or not is_like(source, reference[spec], architecture)
    }


def cover(specs: Iterable[KernelSpec]) -> set[KernelSpec]:
    """Of each family a few kernels that use all that the family uses."""
    target = target_of(REFERENCE)
    families: dict[str, dict[KernelSpec, frozenset[str]]] = defaultdict(dict)
    for spec in specs:
        families[spec.family][spec] = words(build(spec, target))
    chosen: set[KernelSpec] = set()
    for used in families.values():
        missing = set().union(*used.values())
        while missing:
            best = max(used, key=lambda spec: len(missing & used[spec]))
            chosen.add(best)
            missing -= used[best]
    return chosen


def longest(specs: Iterable[KernelSpec]) -> set[KernelSpec]:
    """Of each family the :data:`LONGEST` kernels by their texts."""
    target = target_of(REFERENCE)
    lengths: dict[str, dict[KernelSpec, int]] = defaultdict(dict)
    for spec in specs:
        lengths[spec.family][spec] = len(build(spec, target).text)
    return {spec for found in lengths.values() for spec in sorted(found, key=found.__getitem__)[-LONGEST:]}
