"""External data: mapped, and only from the model's own folder."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from importer_models import external, graph, model, node, value
from onnx import TensorProto, helper, numpy_helper

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.importer import load_model

WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)


def write_model(folder: Path, *tensors: TensorProto, name: str = "model.onnx") -> Path:
    """A model whose nodes read the tensors ``w``, ``w1``, ..."""
    nodes = [node("Identity", tensor.name, f"y{i}") for i, tensor in enumerate(tensors)]
    outputs = [value(f"y{i}", None) for i in range(len(tensors))]
    path = folder / name
    path.write_bytes(model(nodes, outputs=outputs, initializer=list(tensors)).SerializeToString())
    return path


def weights_at(location: str, **entries: int) -> TensorProto:
    return external(numpy_helper.from_array(WEIGHTS, "w"), location, **entries)


def read(path) -> np.ndarray:
    constant = load_model(path).graph.nodes[0].inputs[0].constant
    assert constant is not None
    return constant


def refuse(path, *parts: str) -> None:
    with pytest.raises(InvalidModelError) as caught:
        load_model(path)
    for part in (str(path), "'w'", *parts):
        assert part in str(caught.value), str(caught.value)


# What works


@pytest.mark.parametrize("entries", [{}, {"offset": 0}, {"length": 24}, {"offset": 0, "length": 24}], ids=str)
def test_a_file_of_one_tensor(tmp_path, entries):
    WEIGHTS.tofile(tmp_path / "w.bin")
    np.testing.assert_array_equal(read(write_model(tmp_path, weights_at("w.bin", **entries))), WEIGHTS)


def test_data_is_mapped_once_and_not_copied(tmp_path):
    (tmp_path / "all.bin").write_bytes(bytes(5) + WEIGHTS.tobytes() + bytes(3) + WEIGHTS.tobytes())
    first = weights_at("all.bin", offset=5, length=24)
    second = weights_at("all.bin", offset=32)
    second.name = "w1"
    loaded = load_model(write_model(tmp_path, first, second))
    nodes = loaded.graph.nodes
    assert len(loaded.mappings) == 1
    loaded.release_pages()
    bases = []
    for each in nodes:
        array = each.inputs[0].constant
        np.testing.assert_array_equal(array, WEIGHTS)
        assert not array.flags.writeable
        while isinstance(array, np.ndarray):
            array = array.base
        bases.append(array.obj)
    assert bases[0] is bases[1]
    assert isinstance(bases[0], mmap.mmap)


def test_what_the_onnx_package_writes(tmp_path):
    array = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    proto = model([node("Identity", "w", "y")], initializer=[numpy_helper.from_array(array, "w")])
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.data", size_threshold=0)
    assert path.stat().st_size < 1000
    np.testing.assert_array_equal(read(path), array)


def test_attributes_and_subgraphs_and_sparse_tensors(tmp_path):
    WEIGHTS.tofile(tmp_path / "w.bin")
    np.arange(6).tofile(tmp_path / "i.bin")
    tensor = weights_at("w.bin")
    flat = external(numpy_helper.from_array(WEIGHTS.reshape(-1), "s"), "w.bin")
    places = external(numpy_helper.from_array(np.arange(6), "i"), "i.bin")
    body = graph([node("Identity", "w", "t")], inputs=[], outputs=[value("t", None)], initializer=[tensor])
    nodes = [
        node("Constant", "", "k", value=tensor),
        node("If", "f", "b", then_branch=body, else_branch=body),
        node("Sum", "k b s", "y"),
    ]
    sparse = [helper.make_sparse_tensor(flat, places, [2, 3])]
    proto = model(nodes, inputs=[value("f", [], TensorProto.BOOL)], sparse_initializer=sparse)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    constant, branch, total = load_model(path).graph.nodes
    np.testing.assert_array_equal(constant.attributes["value"], WEIGHTS)
    inner = branch.graph("then_branch").nodes[0].inputs[0]
    np.testing.assert_array_equal(inner.constant, WEIGHTS)
    np.testing.assert_array_equal(total.inputs[2].constant, WEIGHTS)


def test_folders_below_and_spellings_of_windows(tmp_path):
    (tmp_path / "sub").mkdir()
    WEIGHTS.tofile(tmp_path / "sub" / "w.bin")
    for location in ("sub/w.bin", "./sub/w.bin", "sub\\w.bin"):
        np.testing.assert_array_equal(read(write_model(tmp_path, weights_at(location))), WEIGHTS)


def test_the_working_directory_does_not_matter(tmp_path, monkeypatch):
    WEIGHTS.tofile(tmp_path / "w.bin")
    write_model(tmp_path, weights_at("w.bin"))
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(read("model.onnx"), WEIGHTS)
    monkeypatch.chdir(tmp_path.parent)
    np.testing.assert_array_equal(read(f"{tmp_path.name}/model.onnx"), WEIGHTS)


def test_types_of_less_than_eight_bits(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes([0x21, 0x0F]))
    tensor = TensorProto(name="w", data_type=TensorProto.INT4, dims=[3])
    np.testing.assert_array_equal(
        read(write_model(tmp_path, external(tensor, "w.bin"))).astype(np.int8), [1, 2, -1]
    )


def test_an_empty_tensor_in_an_empty_file(tmp_path):
    (tmp_path / "w.bin").touch()
    tensor = external(numpy_helper.from_array(np.zeros((0, 3), np.float32), "w"), "w.bin", offset=0, length=0)
    assert read(write_model(tmp_path, tensor)).shape == (0, 3)


def test_links_inside_of_the_folder(tmp_path):
    WEIGHTS.tofile(tmp_path / "real.bin")
    (tmp_path / "w.bin").symlink_to("real.bin")
    np.testing.assert_array_equal(read(write_model(tmp_path, weights_at("w.bin"))), WEIGHTS)


def test_a_link_to_the_model_leads_to_its_data(tmp_path):
    store, other = tmp_path / "store", tmp_path / "other"
    store.mkdir()
    other.mkdir()
    WEIGHTS.tofile(store / "w.bin")
    real = write_model(store, weights_at("w.bin"))
    (other / "model.onnx").symlink_to(real)
    (other / "w.bin").symlink_to(store / "w.bin")
    np.testing.assert_array_equal(read(other / "model.onnx"), WEIGHTS)


@pytest.mark.parametrize("subfolder", ["", "onnx"])
def test_a_hugging_face_cache(tmp_path, subfolder):
    """``snapshots/REVISION/[onnx/]model.onnx`` and its data are links to ``blobs/HASH``."""
    repository = tmp_path / "models--somebody--something"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "0123abc" / subfolder
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    WEIGHTS.tofile(blobs / "hash2")
    write_model(blobs, weights_at("model.onnx_data"), name="hash1")
    for name, blob in (("model.onnx", "hash1"), ("model.onnx_data", "hash2")):
        (snapshot / name).symlink_to(os.path.relpath(blobs / blob, snapshot))
    np.testing.assert_array_equal(read(snapshot / "model.onnx"), WEIGHTS)


def test_a_hugging_face_cache_whose_model_is_a_copy(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    WEIGHTS.tofile(blobs / "hash2")
    (snapshot / "w.bin").symlink_to("../../blobs/hash2")
    np.testing.assert_array_equal(read(write_model(snapshot, weights_at("w.bin"))), WEIGHTS)


def test_models_of_more_than_two_gibibytes(tmp_path):
    """Holes in a sparse file stand for weights that no protobuf message could hold."""
    extent = 3 << 30
    with open(tmp_path / "w.bin", "wb") as file:
        file.truncate(extent)
        file.seek(extent - 24)
        file.write(WEIGHTS.tobytes())
    huge = external(
        TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[(extent - 24) // 4]), "w.bin", offset=0
    )
    tail = weights_at("w.bin", offset=extent - 24, length=24)
    tail.name = "w1"
    first, second = load_model(write_model(tmp_path, huge, tail)).graph.nodes
    assert first.inputs[0].constant.nbytes == extent - 24
    assert not first.inputs[0].constant[:: 1 << 24].any()
    np.testing.assert_array_equal(second.inputs[0].constant, WEIGHTS)


def test_a_single_file_of_more_than_two_gibibytes(tmp_path):
    """Beyond what protobuf can parse: only the structure goes through it."""
    extent = 2 << 30
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[extent // 4]).SerializeToString()
    tensor += b"\x4a" + varint(extent)
    head = model([node("Identity", "w", "y")]).SerializeToString()
    body = b"\x2a" + varint(len(tensor) + extent) + tensor
    path = tmp_path / "model.onnx"
    with open(path, "wb") as file:
        file.write(head + b"\x3a" + varint(len(body) + extent) + body)
        file.truncate(file.tell() + extent)
        file.seek(-24, os.SEEK_END)
        file.write(WEIGHTS.tobytes())
    array = read(path)
    assert array.nbytes == extent
    np.testing.assert_array_equal(array[-6:], WEIGHTS.reshape(-1))


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number % 128 + 128)
        number //= 128
    return bytes([*encoded, number])


# What does not


def test_a_missing_file(tmp_path):
    refuse(write_model(tmp_path, weights_at("w.bin")), str(tmp_path / "w.bin"), "cannot be opened", "No such")


def test_no_location(tmp_path):
    refuse(write_model(tmp_path, weights_at("")), "no location")


@pytest.mark.parametrize(
    "location",
    [
        "../w.bin",
        "sub/../../w.bin",
        "sub/../w.bin",
        "..\\w.bin",
        "/etc/passwd",
        "C:\\w.bin",
        "C:w.bin",
        "\\\\server\\share\\w.bin",
        "w.bin\0",
        "\0x",
    ],
)
def test_locations_that_may_lead_out(tmp_path, location):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder):
        WEIGHTS.tofile(place / "w.bin")
    refuse(write_model(folder, weights_at(location)), "only relative paths that stay in the model's folder")


def test_a_link_out_of_the_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    WEIGHTS.tofile(tmp_path / "secret.bin")
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    refuse(write_model(folder, weights_at("w.bin")), "link", str(tmp_path / "secret.bin"), "outside")


def test_a_linked_folder_out_of_the_folder(tmp_path):
    folder, outside = tmp_path / "model", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    WEIGHTS.tofile(outside / "w.bin")
    (folder / "sub").symlink_to(outside)
    refuse(write_model(folder, weights_at("sub/w.bin")), "outside of the model's folder")


def test_a_folder_with_a_longer_name_is_another_one(tmp_path):
    folder, longer = tmp_path / "model", tmp_path / "model2"
    folder.mkdir()
    longer.mkdir()
    WEIGHTS.tofile(longer / "w.bin")
    (folder / "w.bin").symlink_to(longer / "w.bin")
    refuse(write_model(folder, weights_at("w.bin")), "outside of the model's folder")


def test_blobs_of_another_cache(tmp_path):
    """Links may lead to the ``blobs`` beside ``snapshots`` and not to others."""
    snapshot, other = tmp_path / "one" / "snapshots" / "0123abc", tmp_path / "two" / "blobs"
    snapshot.mkdir(parents=True)
    other.mkdir(parents=True)
    WEIGHTS.tofile(other / "hash")
    (snapshot / "w.bin").symlink_to(other / "hash")
    refuse(write_model(snapshot, weights_at("w.bin")), "outside of the model's folder")


def test_a_link_to_itself(tmp_path):
    (tmp_path / "w.bin").symlink_to("w.bin")
    refuse(write_model(tmp_path, weights_at("w.bin")), "cannot be opened")


def test_a_device(tmp_path):
    (tmp_path / "w.bin").symlink_to("/dev/zero")
    refuse(write_model(tmp_path, weights_at("w.bin")), "/dev/zero")


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "w.bin")
    refuse(write_model(tmp_path, weights_at("w.bin")), "not a regular file")


def test_a_directory(tmp_path):
    (tmp_path / "w.bin").mkdir()
    refuse(write_model(tmp_path, weights_at("w.bin")), "not a regular file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    WEIGHTS.tofile(tmp_path / "w.bin")
    os.chmod(tmp_path / "w.bin", 0)
    refuse(write_model(tmp_path, weights_at("w.bin")), "cannot be opened", "Permission denied")


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        ({"offset": 1}, "bytes 1 to 25 of 'w.bin', which has 24"),
        ({"offset": 24}, "bytes 24 to 48"),
        ({"offset": 1000, "length": 0}, "bytes 1000 to 1000"),
        ({"offset": -4}, "bytes -4 to 20"),
        ({"length": 25}, "bytes 0 to 25"),
        ({"length": -1}, "bytes 0 to -1"),
        ({"length": 20}, "20 bytes of data; float32[2, 3] needs 24"),
        ({"offset": 4, "length": 20}, "20 bytes of data"),
        ({"offset": 1 << 70}, "which has 24"),
        ({"offset": "four"}, "must be integers"),
        ({"length": "0x18"}, "must be integers"),
        ({"length": ""}, "must be integers"),
    ],
    ids=str,
)
def test_places_beyond_the_file(tmp_path, entries, part):
    WEIGHTS.tofile(tmp_path / "w.bin")
    refuse(write_model(tmp_path, weights_at("w.bin", **entries)), part)


def test_an_empty_file(tmp_path):
    (tmp_path / "w.bin").touch()
    refuse(write_model(tmp_path, weights_at("w.bin")), "bytes 0 to 24 of 'w.bin', which has 0")


def test_strings_are_no_external_data(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"12345678")
    tensor = TensorProto(name="w", data_type=TensorProto.STRING, dims=[1])
    refuse(write_model(tmp_path, external(tensor, "w.bin")), "strings cannot")


def test_bytes_have_no_external_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    WEIGHTS.tofile("w.bin")
    data = write_model(tmp_path, weights_at("w.bin")).read_bytes()
    for source in (data, onnx.ModelProto.FromString(data)):
        with pytest.raises(
            InvalidModelError, match=r"'w' is stored in the external file .* give the model as a path"
        ):
            load_model(source)


def test_a_model_cannot_read_beyond_its_own_bytes(tmp_path):
    """References to the model's own bytes, as the importer writes them for itself, are checked as well."""
    path = write_model(tmp_path, weights_at("\0", offset=0, length=1 << 40))
    refuse(path, "which has")
