"""Machine code that runs wherever it is mapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxplan.compiler.records import dataclass

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Image:
    """Machine code that runs wherever it is mapped at a multiple of :data:`ALIGNMENT`.

    ``exports`` are the offsets of its global symbols. Before it runs, the 64-bit words at the offsets of
    ``imports`` must hold the addresses of those symbols, and the image's own address must be added to those
    at ``rebases``. An image that has neither may be mapped read-only.
    """

    code: bytes
    exports: Mapping[str, int]
    imports: tuple[tuple[str, int], ...]
    rebases: tuple[int, ...]

    @staticmethod
    def join(images: Sequence[Image]) -> tuple[Image, tuple[int, ...]]:
        """All ``images`` in one, without exports, and the offset in it of each."""
        code, places = bytearray(), []
        imports: list[tuple[str, int]] = []
        rebases: list[int] = []
        for image in images:
            start = len(code)
            places.append(start)
            imports += [(name, start + place) for name, place in image.imports]
            rebases += [start + place for place in image.rebases]
            code += image.code
            for place in image.rebases:
                at = slice(start + place, start + place + 8)
                code[at] = (int.from_bytes(code[at], "little") + start).to_bytes(8, "little")
        return Image(bytes(code), {}, tuple(imports), tuple(rebases)), tuple(places)
