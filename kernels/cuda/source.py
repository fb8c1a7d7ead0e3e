"""CUDA C of one kernel: its argument record, its operands by name and its body.

Every kernel takes one record by value: the addresses of the step's operands, then the step's parameters,
all 64-bit words. So steps of all kernels are launched alike, and constant memory holds what they read.
"""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.scalar_cuda import PRELUDE, storage_type

MOST_WORDS = 500
"""Of the 4 KiB that arguments of a kernel may take on all devices."""


@dataclass(frozen=True, slots=True)
class KernelSource:
    """CUDA C and the name of the kernel in it."""

    symbol: str
    text: str


class KernelText:
    """Collects the CUDA C of a kernel for blocks of ``threads``; operands are declared before parameters.

    A tile of the step is a block: ``blockIdx.x`` is its number.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._declared: list[str] = []
        self._lines: list[str] = []
        self._functions: list[str] = []
        self._parameters = False

    def operand(self, name: str, dtype: DType, *, written: bool = False, alone: bool = False) -> str:
        """Declares the next operand, a pointer to elements as they are stored; its name.

        ``alone`` promises that nothing the kernel writes shares memory with it: not where the step is
        emitted with ``in_place`` pairs of it.
        """
        assert not self._parameters, "operands come before parameters"
        element = f"{'' if written else 'const '}{storage_type(dtype)}"
        self._declare(f"{element}* {'__restrict__ ' if alone else ''}const {name} = ({element}*)")
        return name

    def parameter(self, name: str, kind: str = "long long") -> str:
        """Declares the next parameter, an integer of the C type ``kind`` or a ``double``; its name."""
        self._parameters = True
        word = "__longlong_as_double" if kind == "double" else f"({kind})"
        self._declare(f"const {kind} {name} = {word}")
        return name

    def _declare(self, text: str) -> None:
        self._declared.append(f"    {text}(arguments.words[{len(self._declared)}]);")

    def line(self, *texts: str) -> None:
        """Appends lines to the body."""
        for text in texts:
            self._lines.extend(f"    {line}" for line in text.splitlines())

    def function(self, text: str) -> None:
        """Appends device functions, which stand before the kernel."""
        self._functions.append(text)

    def source(self, family: str) -> KernelSource:
        symbol = f"onnxplan_{family}"
        body = "\n".join([*self._declared, *self._lines])
        text = "\n".join(
            [
                PRELUDE,
                *self._functions,
                f"struct Arguments {{ long long words[{max(1, len(self._declared))}]; }};",
                f'extern "C" __global__ void __launch_bounds__({self.threads})',
                f"{symbol}(const __grid_constant__ Arguments arguments) {{",
                body,
                "}",
                "",
            ]
        )
        return KernelSource(symbol, text)


def check_words(operands: int, parameters: int) -> None:
    """Raises ``NotImplementedError`` where a step has more operands and parameters than a kernel takes."""
    if operands + parameters > MOST_WORDS:
        raise NotImplementedError(
            f"a CUDA kernel takes {MOST_WORDS} operands and parameters, not {operands + parameters}"
        )
