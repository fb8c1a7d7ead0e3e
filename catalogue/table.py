"""The table of operators: which versions, element types and devices' kernels serve each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx

from catalogue.nodes import bind
from catalogue.probe import has_strings, planned, run
from catalogue.specimen import all_types, constraints, schemas
from catalogue.specimens import specimen_for
from onnxplan.compiler import ops
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import OnnxPlanError
from onnxplan.compiler.registry import entries, find
from onnxplan.runtime.devices import open_device

DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training", "com.microsoft")

# Written by ONNX Runtime's optimiser and quantiser into the files that people deploy.
CONTRIBUTED = """
Attention BiasGelu DequantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul EmbedLayerNormalization FastGelu
FusedConv FusedGemm FusedMatMul GatherBlockQuantized Gelu GroupQueryAttention MatMulIntegerToFloat MatMulNBits
MultiHeadAttention QAttention QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool
QLinearLeakyRelu QLinearMul QLinearSigmoid QLinearSoftmax QuantizeLinear QuickGelu RotaryEmbedding
SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization
""".split()

_SHORT = {
    DType.FLOAT16: "f16", DType.FLOAT32: "f32", DType.FLOAT64: "f64", DType.BFLOAT16: "bf16",
    DType.INT8: "i8", DType.INT16: "i16", DType.INT32: "i32", DType.INT64: "i64",
    DType.UINT8: "u8", DType.UINT16: "u16", DType.UINT32: "u32", DType.UINT64: "u64",
    DType.INT4: "i4", DType.UINT4: "u4", DType.INT2: "i2", DType.UINT2: "u2",
    DType.COMPLEX64: "c64", DType.COMPLEX128: "c128",
    DType.FLOAT8E4M3FN: "f8e4m3fn", DType.FLOAT8E4M3FNUZ: "f8e4m3fnuz", DType.FLOAT8E5M2: "f8e5m2",
    DType.FLOAT8E5M2FNUZ: "f8e5m2fnuz", DType.FLOAT8E8M0: "f8e8m0", DType.FLOAT4E2M1: "f4e2m1",
    DType.FLOAT6E2M3: "f6e2m3", DType.FLOAT6E3M2: "f6e3m2",
}  # fmt: skip
_GROUPS = {
    "floats": (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64),
    "float8": (DType.FLOAT8E4M3FN, DType.FLOAT8E4M3FNUZ, DType.FLOAT8E5M2, DType.FLOAT8E5M2FNUZ),
    "float6": (DType.FLOAT6E2M3, DType.FLOAT6E3M2),
    "complex": (DType.COMPLEX64, DType.COMPLEX128),
    "signed": (DType.INT8, DType.INT16, DType.INT32, DType.INT64),
    "unsigned": (DType.UINT8, DType.UINT16, DType.UINT32, DType.UINT64),
    "4-bit": (DType.INT4, DType.UINT4),
    "2-bit": (DType.INT2, DType.UINT2),
}

# What a rule refuses, or does in another way, that no element type tells.
LIMITS = {
    "Loop": "unrolled while planning, anew for each iteration where data decides",
    "Scan": "unrolled while planning",
    "SVMClassifier": "no probabilities (`prob_a`, `prob_b`)",
    "MatMulNBits": "no `g_idx`, no weights packed for a device",
    "TopK": "`sorted=0` is sorted as well",
    "NonZero": "a scalar counts as a vector",
    "MaxRoiPool": "two spatial axes",
    "RoiAlign": "two spatial axes",
    "DepthToSpace": "two spatial axes",
    "SpaceToDepth": "two spatial axes",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One operator: versions served, versions at which the rules' meaning changes, types by parameter."""

    name: str
    versions: str
    meanings: str
    types: str
    evaluated: str
    limits: str


def rows(domain: str, *, execute: bool) -> Iterator[Row]:
    """The operators of a domain in order; ``execute`` runs every node on the CPU, else it is only planned."""
    ops.load()
    described = {name: versions for (own, name), versions in schemas().items() if own == domain}
    rules: dict[str, list[int]] = {}
    for entry in entries():
        if entry.domain == domain and entry.rule is not None:
            rules.setdefault(entry.op_type, []).append(entry.since)
    names = sorted({*described, *rules, *(CONTRIBUTED if domain == "com.microsoft" else ())})
    for name in names:
        versions = [s.since_version for s in described.get(name, ())]
        served = [version for version in versions if find(domain, name, version) is not None]
        deprecated = [
            s.since_version for s in described.get(name, ()) if s.deprecated and s is described[name][-1]
        ]
        meanings = sorted(rules.get(name, ()))
        if not served and not meanings:
            yield Row(name, "not supported", "", "", "", "")
            continue
        types, strings = _types(described[name][-1], execute) if served else ("not described by a schema", "")
        yield Row(
            name,
            _opsets(served, versions, deprecated) if served else f"{meanings[0]} and later",
            ", ".join(str(version) for version in meanings if version > min(served, default=1)),
            types,
            strings,
            LIMITS.get(name, ""),
        )


def _opsets(served: list[int], versions: list[int], deprecated: list[int]) -> str:
    """The opsets that the versions served cover, the last one open."""
    if served != versions:
        return "those of versions " + ", ".join(map(str, served))
    note = f" (deprecated since {deprecated[0]})" if deprecated else ""
    return f"{served[0]} and later{note}"


def _types(schema: object, execute: bool) -> tuple[str, str]:
    """Which types each parameter may have, and what is evaluated while planning."""
    specimen = specimen_for(schema)
    if specimen is None:
        return "not probed: it has inputs or outputs that are no tensors", ""
    found: dict[str, list[DType]] = {}
    strings = reads = False
    for parameter, types in all_types(schema, specimen):
        bound = bind(schema, specimen, types)
        try:
            if execute or has_strings(bound):
                run(bound)
            if not has_strings(bound):
                reads = planned(bound, _DEVICE.selector).reads_data or reads
        except OnnxPlanError:
            continue
        strings = strings or has_strings(bound)
        for each in parameter.split():
            found.setdefault(each, []).append(types[each])
    allowed = constraints(schema)
    texts = []
    for parameter, dtypes in found.items():
        known = set(dtypes)
        missing = [] if specimen.pairs else [dtype for dtype in allowed[parameter] if dtype not in known]
        text = f"{parameter}: {_names(dict.fromkeys(dtypes))}"
        texts.append(f"{text}; not {_names(missing)}" if missing else text)
    return "<br>".join(texts) or "no choice", _evaluated(strings, reads)


def _evaluated(strings: bool, reads_data: bool) -> str:
    if not reads_data:
        return "all of it"
    return "strings" if strings else ""


_DEVICE = open_device("cpu")


def _names(dtypes: Iterable[DType]) -> str:
    """Short names, those of a group as one."""
    left = list(dtypes)
    names = []
    for group, members in _GROUPS.items():
        if all(member in left for member in members):
            names.append(group)
            left = [dtype for dtype in left if dtype not in members]
    return " ".join([*names, *(_SHORT.get(dtype, dtype.label) for dtype in left)])


def document(*, execute: bool = True) -> str:
    """``docs/operators.md``"""
    lines = [
        "# Operators",
        "",
        f"Written by `make docs/operators.md` from the rules and the schemas of onnx {onnx.__version__}.",
        "Types are those for which a minimal node was planned and run on the CPU; `tests/catalogue` compares",
        "the results of these nodes in all versions with those of others, with `--sweep` on both devices.",
        "",
        "| column | |",
        "|---|---|",
        "| opsets | versions of the standard that are served |",
        "| changes | versions from which a rule means something else: what came before has its own |",
        "| types | for each type parameter of the newest schema: "
        + "; ".join(f"*{name}* {' '.join(_SHORT[d] for d in members)}" for name, members in _GROUPS.items())
        + " |",
        "| planning | what is evaluated while a run is planned; all else is steps of a plan, with kernels |",
        "",
    ]
    for domain in DOMAINS:
        table = list(rows(domain, execute=execute))
        supported = sum(row.versions != "not supported" for row in table)
        lines += [f"## {domain or 'ai.onnx'}", "", f"{supported} of {len(table)} operators.", ""]
        lines += ["| operator | opsets | changes | types | planning | limits |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {r.name} | {r.versions} | {r.meanings} | {r.types} | {r.evaluated} | {r.limits} |"
            for r in table
        ]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
