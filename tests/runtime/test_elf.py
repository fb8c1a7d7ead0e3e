"""Linking objects without a linker, and running what comes out."""

from __future__ import annotations

import ctypes
import random
import struct

import llvmlite.binding as llvm
import pytest

from onnxplan.runtime.elf import ElfError, link
from onnxplan.runtime.executable import MAPS_IMAGES, map_image
from onnxplan.runtime.image import Image
from onnxplan.runtime.object_loader import ObjectLoader

pytestmark = pytest.mark.skipif(not MAPS_IMAGES, reason="images are for Linux on x86-64")

TABLE = """
@table = private constant [4 x i64] [i64 3, i64 5, i64 7, i64 11]
@places = private constant [2 x ptr] [ptr @table, ptr getelementptr ([4 x i64], ptr @table, i64 0, i64 2)]
declare ptr @memcpy(ptr, ptr, i64)
declare i64 @given(i64)
define internal i64 @twice(i64 %x) noinline {
  %y = shl i64 %x, 1
  ret i64 %y
}
define i64 @look(i64 %i) {
  %p = getelementptr [4 x i64], ptr @table, i64 0, i64 %i
  %v = load i64, ptr %p
  %t = call i64 @twice(i64 %v)
  ret i64 %t
}
define i64 @through(i64 %i) {
  %p = getelementptr [2 x ptr], ptr @places, i64 0, i64 %i
  %q = load ptr, ptr %p
  %v = load i64, ptr %q
  ret i64 %v
}
define void @copy(ptr %to, ptr %from, i64 %n) {
  %r = call ptr @memcpy(ptr %to, ptr %from, i64 %n)
  ret void
}
define i64 @ask(i64 %x) {
  %v = call i64 @given(i64 %x)
  %w = add i64 %v, 1
  ret i64 %w
}
"""
STATE = """
@count = global i64 0
define i64 @next() {
  %v = load i64, ptr @count
  %w = add i64 %v, 1
  store i64 %w, ptr @count
  ret i64 %w
}
"""
UNKNOWN = """
declare i64 @no_such_function()
define i64 @f() {
  %v = call i64 @no_such_function()
  ret i64 %v
}
"""
CONSTANT = """
@k = private constant [2 x i64] [i64 VALUE, i64 1]
define i64 @f(i64 %i) {
  %p = getelementptr [2 x i64], ptr @k, i64 0, i64 %i
  %v = load i64, ptr %p
  ret i64 %v
}
"""
FUNCTIONS = ("look", "through", "copy", "ask")


def compiled(text: str, model: str = "default", reloc: str = "pic") -> bytes:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(reloc=reloc, codemodel=model)
    return machine.emit_object(llvm.parse_assembly(text))


@pytest.fixture(scope="module")
def given():
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(lambda x: 10 * x)


def check(addresses: dict[str, int]) -> None:
    number = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
    assert [number(addresses["look"])(i) for i in range(4)] == [6, 10, 14, 22]
    assert [number(addresses["through"])(i) for i in range(2)] == [3, 7]
    assert number(addresses["ask"])(4) == 41
    source, target = (ctypes.c_char * 70)(*b"x" * 69), (ctypes.c_char * 70)()
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(addresses["copy"])(
        ctypes.addressof(target), ctypes.addressof(source), 69
    )
    assert target.value == b"x" * 69


@pytest.mark.parametrize(("model", "reloc"), [("default", "pic"), ("large", "pic"), ("large", "static")])
def test_code_data_tables_and_imports(given, model: str, reloc: str) -> None:
    image = link(compiled(TABLE, model, reloc))
    base = map_image(image, {"given": ctypes.cast(given, ctypes.c_void_p).value})
    check({name: base + image.exports[name] for name in FUNCTIONS})


def test_objects_that_need_more_are_left_to_llvm(given) -> None:
    code = compiled(STATE)
    with pytest.raises(ElfError, match="written to"):
        link(code)
    loader = ObjectLoader()
    (address,) = loader.load(code, ("next",))
    count = ctypes.CFUNCTYPE(ctypes.c_int64)(address)
    assert (count(), count()) == (1, 2)


def test_unknown_symbols_are_named(given) -> None:
    code = compiled(UNKNOWN)
    with pytest.raises(RuntimeError, match="no_such_function"):
        ObjectLoader().load(code, ("f",))
    with pytest.raises(RuntimeError, match="lacks g"):
        ObjectLoader().load(code, ("g",), {"no_such_function": 1})


def test_joined_images_keep_their_own_symbols(given) -> None:
    images = [link(compiled(CONSTANT.replace("VALUE", str(value)))) for value in (41, 42, 43)]
    joined, places = Image.join(images)
    base = map_image(joined, {})
    number = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
    found = [
        number(base + place + image.exports["f"])(0) for place, image in zip(places, images, strict=True)
    ]
    assert found == [41, 42, 43]


def test_rebased_words_move_with_the_image(given) -> None:
    """A word that holds an address gets the image's own added, after joining too."""
    words = struct.pack("<QQ", 8, 77)
    padding = bytes(48)
    joined, places = Image.join([Image(words + padding, {}, (), (0,)), Image(words + padding, {}, (), (0,))])
    base = map_image(joined, {})
    for place in places:
        pointer = ctypes.c_uint64.from_address(base + place).value
        assert pointer == base + place + 8
        assert ctypes.c_uint64.from_address(pointer).value == 77


def test_damaged_objects_are_refused_or_linked_but_never_crash_the_linker() -> None:
    code = compiled(TABLE)
    generator = random.Random(7)
    refused = 0
    for cut in range(0, len(code), 7):
        with pytest.raises(ElfError):
            link(code[:cut])
    for _ in range(2000):
        damaged = bytearray(code)
        for _ in range(generator.randint(1, 3)):
            damaged[generator.randrange(len(code))] = generator.randrange(256)
        try:
            image = link(bytes(damaged))
        except ElfError:
            refused += 1
        else:
            assert all(0 <= place <= len(image.code) - 8 for _, place in image.imports)
            assert all(0 <= place <= len(image.code) - 8 for place in image.rebases)
    assert refused > 100
