"""Compiled artifacts: written, opened, and refused where they do not fit or are damaged."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxplan
from onnxplan.compiler.errors import IncompatibleArtifactError, InvalidArtifactError
from onnxplan.runtime.artifact import MAGIC, PREFIX_BYTES, Artifact, digest, is_artifact
from onnxplan.runtime.cpu.target import detect_target
from onnxplan.runtime.description import Description
from onnxplan.runtime.origin import FileIdentity, Origin

ROWS, DEPTH, COLUMNS = 3, 40, 21
random_state = np.random.default_rng(3)
WEIGHTS = random_state.normal(size=(DEPTH, COLUMNS)).astype(np.float32)
BIAS = random_state.normal(size=COLUMNS).astype(np.float32)


def layer(rows: int | str = "rows") -> onnx.ModelProto:
    """A product, a bias and a Relu, beside a table of text and an optional factor."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["q"]),
        helper.make_node("Mul", ["q", "factor"], ["r"]),
        helper.make_node("Relu", ["r"], ["y"]),
        helper.make_node("Constant", [], ["labels"], value_strings=["left", "right"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, DEPTH]),
            helper.make_tensor_value_info("factor", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, COLUMNS]),
            helper.make_tensor_value_info("labels", TensorProto.STRING, [2]),
        ],
        [
            numpy_helper.from_array(WEIGHTS, "w"),
            numpy_helper.from_array(BIAS, "b"),
            numpy_helper.from_array(np.float32(1), "factor"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"author": "somebody"})
    return model


def expected(x: np.ndarray) -> np.ndarray:
    return np.maximum(x @ WEIGHTS + BIAS, 0)


def sample(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, DEPTH)).astype(np.float32)


@pytest.fixture(scope="module")
def plan_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifacts") / "layer.plan"
    onnxplan.compile(layer(), path, shapes=[{"x": (ROWS, DEPTH)}, {"x": (1, DEPTH)}])
    return path


def test_an_artifact_runs_as_its_model_does(plan_path: Path) -> None:
    assert is_artifact(plan_path)
    with onnxplan.InferenceSession(plan_path) as session, onnxplan.InferenceSession(layer()) as plain:
        assert session.inputs == plain.inputs
        assert session.optional_inputs == plain.optional_inputs
        assert session.outputs == plain.outputs
        assert session.metadata == {"author": "somebody"}
        # 5 rows are in no plan of the artifact, a factor is in none either.
        for feeds in ({"x": sample()}, {"x": sample(1)}, {"x": sample(5)}, {"x": sample(), "factor": 2.0}):
            found, wanted = session.run_sync(feeds), plain.run_sync(feeds)
            np.testing.assert_array_equal(found["y"].numpy(), wanted["y"].numpy())
            assert found["labels"].numpy().tolist() == ["left", "right"]
        np.testing.assert_allclose(
            session.run_sync({"x": sample()})["y"].numpy(), expected(sample()), 1e-5, 1e-5
        )


def test_any_number_of_threads_gives_the_same(plan_path: Path) -> None:
    found = []
    for threads in (1, 2, 3):
        with onnxplan.InferenceSession(plan_path, threads=threads) as session:
            assert session.plan({"x": (ROWS, DEPTH)}).target.threads == threads
            found.append(session.run_sync({"x": sample()})["y"].numpy())
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_nothing_is_imported_or_compiled_to_run_one(plan_path: Path, tmp_path: Path) -> None:
    code = f"""
import sys, numpy as np
numpys = set(sys.modules)
import onnxplan
session = onnxplan.InferenceSession({str(plan_path)!r})
assert session.run_sync({{"x": np.ones((1, {DEPTH}), np.float32)}})["y"].dims == (1, {COLUMNS})
heavy = {{"onnx", "numba", "llvmlite", "cupy", "asyncio", "google.protobuf"}} & set(sys.modules)
heavy |= {{"subprocess", "tempfile", "inspect"}} & (set(sys.modules) - numpys)
assert not heavy, heavy
assert not [name for name in sys.modules if name.startswith("onnxplan.kernels")]
"""
    environment = {**os.environ, "ONNXPLAN_CACHE_DIR": str(tmp_path / "store")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert not (tmp_path / "store").exists()


def test_constants_are_the_mapped_file(plan_path: Path) -> None:
    artifact = Artifact(plan_path)
    for number in range(len(artifact.header.constants)):
        constant = artifact.constant(number)
        assert not constant.flags.writeable
        assert constant.ctypes.data % 64 == 0
    # Both plans read the same packed weights.
    first, second = (set(entry.constants) for entry in artifact.header.plans)
    largest = max(first, key=lambda number: artifact.constant(number).nbytes)
    assert largest in second


def test_sessions_of_artifacts_pickle(plan_path: Path) -> None:
    with onnxplan.InferenceSession(plan_path) as session, pickle.loads(pickle.dumps(session)) as copy:
        y = copy.run_sync({"x": sample()})["y"].numpy()
        np.testing.assert_array_equal(y, session.run_sync({"x": sample()})["y"].numpy())


def test_without_the_model_there_are_only_the_plans(tmp_path: Path) -> None:
    path = tmp_path / "lean.plan"
    onnxplan.compile(layer(), path, shapes={"x": (ROWS, DEPTH)}, include_model=False)
    with onnxplan.InferenceSession(path) as session:
        np.testing.assert_allclose(
            session.run_sync({"x": sample()})["y"].numpy(), expected(sample()), 1e-5, 1e-5
        )
        with pytest.raises(IncompatibleArtifactError, match="without its model"):
            session.run_sync({"x": sample(7)})
        # The session stays usable.
        session.run_sync({"x": sample()})


def test_external_data_comes_along(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(
        layer(ROWS),
        folder / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    path = tmp_path / "model.plan"
    onnxplan.compile(folder / "model.onnx", path)
    (folder / "weights.bin").unlink()
    with onnxplan.InferenceSession(path) as session:
        np.testing.assert_allclose(
            session.run_sync({"x": sample()})["y"].numpy(), expected(sample()), 1e-5, 1e-5
        )
        doubled = session.run_sync({"x": sample(), "factor": np.float32(2)})["y"].numpy()
        np.testing.assert_allclose(doubled, 2 * expected(sample()), 1e-5, 1e-5)


def test_models_whose_shapes_depend_on_data_are_planned_from_the_model(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["i"]),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "places",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "places.plan"
    onnxplan.compile(model, path)
    with onnxplan.InferenceSession(path) as session:
        y = session.run_sync({"x": np.array([0, 1, 0, 2, 0, 3], np.float32)})["y"].numpy()
    assert y.tolist() == [[1, 3, 5]]
    with pytest.raises(ValueError, match="depend on data"):
        onnxplan.compile(model, path, include_model=False)


def test_options_of_another_kind_are_refused(plan_path: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleArtifactError, match=r"math='strict'.*recompile=True"):
        onnxplan.InferenceSession(plan_path, math="fast")
    with onnxplan.InferenceSession(plan_path, math="fast", recompile=True) as session:
        # Factors are rounded to bfloat16 where the processor is faster with it.
        np.testing.assert_allclose(
            session.run_sync({"x": sample()})["y"].numpy(), expected(sample()), 0.1, 0.1
        )
    with pytest.raises(TypeError, match="recompile"):
        onnxplan.InferenceSession(plan_path, recompile="yes")


def rewritten(path: Path, change) -> bytes:
    """The artifact with its header changed by ``change(fields)``, whose digest fits again."""
    data = path.read_bytes()
    start = len(MAGIC)
    size = struct.unpack_from("<Q", data, start)[0]
    fields = json.loads(data[PREFIX_BYTES : PREFIX_BYTES + size])
    change(fields)
    header = json.dumps(fields, separators=(",", ":")).encode()
    first = fields["sections"][0][0] if fields["sections"] else 0
    assert PREFIX_BYTES + len(header) <= first, "the changed header must fit into the place of the old one"
    prefix = MAGIC + struct.pack("<Q", len(header)) + digest(header) + bytes(64)
    return (prefix + header).ljust(first, b"\0") + data[first:]


def test_another_processor_is_refused_with_the_reason(plan_path: Path, tmp_path: Path) -> None:
    def change(fields) -> None:
        fields["targets"][0]["requires"].append("avx4096")

    path = tmp_path / "other.plan"
    path.write_bytes(rewritten(plan_path, change))
    with pytest.raises(IncompatibleArtifactError, match="this machine lacks avx4096"):
        onnxplan.InferenceSession(path)
    with onnxplan.InferenceSession(path, recompile=True) as session:
        np.testing.assert_allclose(
            session.run_sync({"x": sample()})["y"].numpy(), expected(sample()), 1e-5, 1e-5
        )


def test_another_version_is_refused(plan_path: Path, tmp_path: Path) -> None:
    data = bytearray(plan_path.read_bytes())
    data[len(MAGIC) - 2] = 99
    path = tmp_path / "newer.plan"
    path.write_bytes(data)
    with pytest.raises(InvalidArtifactError, match="version 99"):
        onnxplan.InferenceSession(path)


def open_and_run(path: Path) -> None:
    with onnxplan.InferenceSession(path) as session:
        session.run_sync({"x": sample()})


def test_artifacts_cut_short_are_refused(plan_path: Path, tmp_path: Path) -> None:
    data = plan_path.read_bytes()
    header = struct.unpack_from("<Q", data, len(MAGIC))[0]
    sections = json.loads(data[PREFIX_BYTES : PREFIX_BYTES + header])["sections"]
    ends = {
        0,
        len(MAGIC),
        PREFIX_BYTES,
        PREFIX_BYTES + header,
        *(o for o, _, _ in sections),
        *(o + s for o, s, _ in sections),
    }
    path = tmp_path / "cut.plan"
    for end in sorted({max(0, end + shift) for end in ends for shift in (-1, 0, 1)}):
        if end >= len(data):
            continue
        path.write_bytes(data[:end])
        with pytest.raises((InvalidArtifactError, onnxplan.InvalidModelError)):
            open_and_run(path)


def test_damaged_bytes_are_noticed_wherever_they_decide_something(plan_path: Path, tmp_path: Path) -> None:
    """Bits flipped in the header, in plans and in code; constants and the model may hold any bytes."""
    data = plan_path.read_bytes()
    header = struct.unpack_from("<Q", data, len(MAGIC))[0]
    fields = json.loads(data[PREFIX_BYTES : PREFIX_BYTES + header])
    checked = [fields["sections"][number] for number in {fields["targets"][0]["code"], fields["plans"][0][5]}]
    places = [range(PREFIX_BYTES - 64), range(PREFIX_BYTES, PREFIX_BYTES + header)]
    places += [range(offset, offset + size) for offset, size, _ in checked]
    generator = random.Random(5)
    path = tmp_path / "damaged.plan"
    for part in places:
        for _ in range(60):
            place = generator.choice(part)
            damaged = bytearray(data)
            damaged[place] ^= 1 << generator.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises((InvalidArtifactError, onnxplan.InvalidModelError)):
                open_and_run(path)


def test_headers_that_lie_are_refused() -> None:
    """10,000 headers with values replaced, digests right: an error that says where, or a header that is
    whole."""
    from onnxplan.compiler.checked_json import MalformedError
    from onnxplan.runtime.artifact import read_header

    document = {
        "producer": {"onnxplan": "1"}, "options": {"math": "strict", "optimize": 1},
        "inputs": [["x", "float32", ["rows", 4], False],
            ["s", ["seq", ["map", "int64", "bool"]], None, True]],
        "outputs": [["y", "float32", None, False]],
        "metadata": {"a": "b"},
        "description": Description("me", "graph", version=3).to_json(),
        "sections": [[4096, 640, "00"], [8192, 300, "00"], [12288, 90, "00"]],
        "targets": [{
            "target": replace(detect_target(2), isa="avx512").to_json(),
            "requires": ["avx512f"], "form": "image", "code": 1, "kernels": {"k": [0, 10, ""]},
            "imports": [["memcpy", 8]], "rebases": [16], "executor": {"run": 64}, "executor_digest": "aa",
        }],
        "constants": [["float32", 100, 0, 64]],
        "plans": [[
            0, ["x", "s"], [[3, 4], [1]], "", {"labels": [[2], ["a", "b"]]}, 2, [0],
            {"s": ["seq", ["map", "int64", "bool"], [["map", ["map", "int64", "bool"], [1], "s"]]]},
            {"y": ["seq", ["tensor", "string", [2]], ["labels"]]},
        ]],
        "model": 0, "external": {"w": 1},
        "origin": Origin(FileIdentity(1, 2, 3, 4), {"w": FileIdentity(5, 6, 7, 8)}).to_json(),
    }  # fmt: skip
    size, document = 12288 + 90, json.loads(json.dumps(document))
    read_header(document, size)
    generator = random.Random(11)
    values = [None, True, -1, 0, 1, 3, 1 << 62, 1 << 64, 0.5, "", "x", "objects", [], {}, [1], {"x": 1}, [[]]]
    refused = 0
    for _ in range(10_000):
        damaged = json.loads(json.dumps(document))
        for _ in range(generator.randint(1, 2)):
            damage(damaged, generator, values)
        try:
            header = read_header(damaged, size)
        except MalformedError:
            refused += 1
            continue
        for section in header.sections:
            assert section.offset + section.size <= size
        for constant in header.constants:
            end = constant.offset + constant.size * constant.dtype.itemsize
            assert 0 <= constant.offset <= end <= header.sections[constant.section].size
        for target in header.targets:
            code = header.sections[target.code].size
            assert all(
                0 <= start < code and start + length <= code for start, length, _ in target.kernels.values()
            )
            assert all(0 <= place <= code - 8 for _, place in target.imports)
            assert all(0 <= place <= code - 8 for place in target.rebases)
            assert all(0 <= place < code for place in target.executor.values())
    assert refused > 5000


def damage(document, generator: random.Random, values) -> None:
    """Replaces, removes or adds a value somewhere in a JSON document."""
    while True:
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        if not keys:
            return
        key = generator.choice(keys)
        inner = document[key]
        if isinstance(inner, dict | list) and inner and generator.random() < 0.8:
            document = inner
            continue
        kind = generator.random()
        if kind < 0.8:
            document[key] = generator.choice(values)
        elif kind < 0.9:
            del document[key]
        elif isinstance(document, list):
            document.insert(key, generator.choice(values))
        else:
            document["unknown"] = generator.choice(values)
        return


def test_signatures(plan_path: Path, tmp_path: Path) -> None:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    from cryptography.hazmat.primitives import serialization

    private, stranger = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public, other = (
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for key in (private, stranger)
    )
    path, key_path = tmp_path / "signed.plan", tmp_path / "key.pem"
    key_path.write_bytes(secret)
    onnxplan.compile(layer(ROWS), path, sign_key=key_path)
    with onnxplan.InferenceSession(path, verify_key=public) as session:
        session.run_sync({"x": sample()})
    with pytest.raises(InvalidArtifactError, match="not of the given key"):
        onnxplan.InferenceSession(path, verify_key=other)
    with pytest.raises(InvalidArtifactError, match="not signed"):
        onnxplan.InferenceSession(plan_path, verify_key=public)
    with pytest.raises(InvalidArtifactError, match="no compiled artifact"):
        onnxplan.InferenceSession(layer(ROWS), verify_key=public)
    with pytest.raises(ValueError, match="PEM"):
        onnxplan.InferenceSession(path, verify_key=b"no key")
    # A signature covers the weights too.
    data = bytearray(path.read_bytes())
    artifact = Artifact(path)
    section = artifact.header.sections[0]
    data[section.offset + section.size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidArtifactError, match="section 0 is damaged"):
        onnxplan.InferenceSession(path, verify_key=public)
