"""CUDA C of what attention does with a block of keys: both products, and the softmax between them.

Names that the text refers to are declared by :mod:`onnxplan.kernels.cuda.attention_code`.
"""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType


def products_with_keys(form: str, dtype: DType, *, held: bool) -> str:
    """The sums of products of queries and keys."""
    clear = """\
#pragma unroll
for (int g = 0; g < GROUPS; ++g)
#pragma unroll
    for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[g][n][i] = 0.0f;
"""
    if form == "scalar":
        return clear + _SCALAR_SCORES
    single = dtype is DType.FLOAT32
    read = "" if held else _read_queries("a[g]", "step", single)
    return clear + _MATRIX_SCORES.format(
        declare="" if held else "unsigned a[GROUPS][4];",
        read=f"#pragma unroll\nfor (int g = 0; g < GROUPS; ++g) {{\n{read}\n}}" if read else "",
        left="held[g][step / (2 * CHUNK)]" if held else "a[g]",
        round_b=_round("b") if single else "",
        multiply=f"onnxplan_warp_multiply_{dtype.label}",
    )


def hold_queries(dtype: DType) -> str:
    """Keeps the fragments of all queries in registers ``held``, before the first block of keys."""
    read = _read_queries("held[g][step]", "step * 2 * CHUNK", dtype is DType.FLOAT32)
    return f"""\
#pragma unroll
for (int g = 0; g < GROUPS; ++g)
#pragma unroll
    for (int step = 0; step < DEPTH / (2 * CHUNK); ++step) {{
        {read}
    }}"""


def _read_queries(words: str, column: str, single: bool) -> str:
    place = f"(warp_first + 16 * g + lane % 16) * DEPTH_PITCH + {column} + lane / 16 * CHUNK"
    load = f"onnxplan_warp_load_matrices({words}, q_tile + {place});"
    return f"{load}\n{_round(words)}" if single else load


def _round(words: str) -> str:
    rounded = f"onnxplan_round_tf32(__uint_as_float({words}[i]))"
    return f"#pragma unroll\nfor (int i = 0; i < 4; ++i) {words}[i] = {rounded};"


_MATRIX_SCORES = """\
#pragma unroll
for (int step = 0; step < DEPTH; step += 2 * CHUNK) {{
    {declare}
    {read}
#pragma unroll
    for (int n = 0; n < KEYS / 8; n += 2) {{
        unsigned b[4];
        const int key = 8 * n + lane % 8 + lane / 16 * 8;
        onnxplan_warp_load_matrices(b, k_tile + key * DEPTH_PITCH + step + lane / 8 % 2 * CHUNK);
        {round_b}
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {{
            {multiply}(scores[g][n], {left}, b[0], b[1]);
            {multiply}(scores[g][n + 1], {left}, b[2], b[3]);
        }}
    }}
}}"""

_SCALAR_SCORES = """\
const Storage* const q_rows = q_tile + (warp_first + group) * DEPTH_PITCH;
#pragma unroll 2
for (int step = 0; step < DEPTH; step += 4) {
    float4 a[GROUPS][2];
#pragma unroll
    for (int g = 0; g < GROUPS; ++g)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            a[g][half] = *(const float4*)(q_rows + (16 * g + 8 * half) * DEPTH_PITCH + step);
#pragma unroll
    for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float4 b = *(const float4*)(k_tile + (8 * n + 2 * pair + i) * DEPTH_PITCH + step);
#pragma unroll
            for (int g = 0; g < GROUPS; ++g)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float& score = scores[g][n][2 * half + i];
                    score = fmaf(a[g][half].x, b.x, score);
                    score = fmaf(a[g][half].y, b.y, score);
                    score = fmaf(a[g][half].z, b.z, score);
                    score = fmaf(a[g][half].w, b.w, score);
                }
        }
}"""


_SOFTMAX = """\
#pragma unroll
for (int g = 0; g < GROUPS; ++g)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float top = tops[g][half];
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
            top = fmaxf(top, fmaxf(scores[g][n][2 * half], scores[g][n][2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        // A row without scores above minus infinity has weights of 0 so far.
        const float finite = top == NOTHING ? 0.0f : top;
        const float base = SHIFT;
        const float shrunk = onnxplan_power_of_two((tops[g][half] - finite) * SCALE);
        tops[g][half] = top;
        float total = totals[g][half] * shrunk;
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float value = scores[g][n][2 * half + i];
                const float weight = onnxplan_power_of_two(POWER);
                scores[g][n][2 * half + i] = weight;
                total += weight;
            }
        totals[g][half] = total;
#pragma unroll
        for (int n = 0; n < WIDTH / 8; ++n) {
            results[g][n][2 * half] *= shrunk;
            results[g][n][2 * half + 1] *= shrunk;
        }
    }"""


def softmax_step(*, exact: bool) -> str:
    """``exact`` arithmetic subtracts first; the other order rounds large scores, overflows for the largest
    ones, which masks add, and takes one operation less."""
    power = "(value - base) * SCALE" if exact else "fmaf(value, SCALE, -base)"
    return _SOFTMAX.replace("POWER", power).replace("SHIFT", "finite" if exact else "finite * SCALE")


def products_with_values(form: str, dtype: DType, *, fine: bool) -> str:
    """Adds the products of weights and values to the results.

    Weights are rounded to the type of the values, or, where they are ``fine`` and that has 16 bits, become
    two summands of it: the second multiplication costs nothing where values are waited for.
    """
    if form == "scalar":
        return _SCALAR_VALUES
    if dtype is DType.FLOAT32:
        return _SINGLE_VALUES
    multiply, pack = f"onnxplan_warp_multiply_{dtype.label}", f"onnxplan_pack_{dtype.label}"
    return _SMALL_VALUES.format(
        multiply=multiply,
        weights=(_FINE_WEIGHTS if fine else _WEIGHTS).format(pack=pack, kept=KEPT_BITS[dtype]),
        rest=_FINE_MULTIPLY.format(multiply=multiply) if fine else "",
    )


KEPT_BITS = {DType.FLOAT16: "0xffffe000u", DType.BFLOAT16: "0xffff0000u"}
"""Those of a float that the type has."""

_WEIGHTS = "a[g][i] = {pack}(pair_of_weights[0], pair_of_weights[1]);"

_FINE_WEIGHTS = """\
float high[2];
#pragma unroll
for (int j = 0; j < 2; ++j) high[j] = __uint_as_float(__float_as_uint(pair_of_weights[j]) & {kept});
a[g][i] = {pack}(high[0], high[1]);
rest[g][i] = {pack}(pair_of_weights[0] - high[0], pair_of_weights[1] - high[1]);"""

_FINE_MULTIPLY = """\
{multiply}(results[g][m], rest[g], b[0], b[1]);
{multiply}(results[g][m + 1], rest[g], b[2], b[3]);"""

_SMALL_VALUES = """\
#pragma unroll
for (int n = 0; n < KEYS / 8; n += 2) {{
    unsigned a[GROUPS][4], rest[GROUPS][4];
#pragma unroll
    for (int g = 0; g < GROUPS; ++g)
#pragma unroll
        for (int i = 0; i < 4; ++i) {{
            const float* const pair_of_weights = scores[g][n + i / 2] + i % 2 * 2;
            {weights}
        }}
#pragma unroll
    for (int m = 0; m < WIDTH / 8; m += 2) {{
        unsigned b[4];
        onnxplan_warp_load_transposed(b, v_tile + (8 * n + lane % 16) * WIDTH_PITCH + 8 * m + lane / 16 * 8);
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {{
            {multiply}(results[g][m], a[g], b[0], b[1]);
            {multiply}(results[g][m + 1], a[g], b[2], b[3]);
            {rest}
        }}
    }}
}}"""

# The sum over eight keys has no order: keys 2 t and 2 t + 1 take the places of t and t + 4 on both sides.
_SINGLE_VALUES = """\
#pragma unroll
for (int n = 0; n < KEYS / 8; ++n) {
    unsigned a[GROUPS][4];
#pragma unroll
    for (int g = 0; g < GROUPS; ++g)
#pragma unroll
        for (int i = 0; i < 4; ++i) a[g][i] = onnxplan_round_tf32(scores[g][n][i % 2 * 2 + i / 2]);
#pragma unroll
    for (int m = 0; m < WIDTH / 8; ++m) {
        const Storage* const value = v_tile + (8 * n + 2 * pair) * WIDTH_PITCH + 8 * m + group;
        const unsigned b0 = onnxplan_round_tf32(value[0]), b1 = onnxplan_round_tf32(value[WIDTH_PITCH]);
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) onnxplan_warp_multiply_float32(results[g][m], a[g], b0, b1);
    }
}"""

# Here a lane has columns 16 m + 4 pair to 16 m + 4 pair + 3 of results 2 m and 2 m + 1.
_SCALAR_VALUES = """\
Storage* const weights = v_tile + KEYS * WIDTH_PITCH + (warp_first + group) * KEY_PITCH;
#pragma unroll
for (int g = 0; g < GROUPS; ++g)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i)
                weights[(16 * g + 8 * half) * KEY_PITCH + 8 * n + 2 * pair + i] = scores[g][n][2 * half + i];
__syncwarp();
#pragma unroll 1
for (int key = 0; key < KEYS; key += 4) {
    float a[GROUPS][2][4];
#pragma unroll
    for (int g = 0; g < GROUPS; ++g)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float4 four = *(const float4*)(weights + (16 * g + 8 * half) * KEY_PITCH + key);
            a[g][half][0] = four.x, a[g][half][1] = four.y, a[g][half][2] = four.z, a[g][half][3] = four.w;
        }
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int m = 0; m < WIDTH / 16; ++m) {
            const float4 b = *(const float4*)(v_tile + (key + j) * WIDTH_PITCH + 16 * m + 4 * pair);
#pragma unroll
            for (int g = 0; g < GROUPS; ++g)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float weight = a[g][half][j];
                    float *left = results[g][2 * m] + 2 * half, *right = results[g][2 * m + 1] + 2 * half;
                    left[0] = fmaf(weight, b.x, left[0]);
                    left[1] = fmaf(weight, b.y, left[1]);
                    right[0] = fmaf(weight, b.z, right[0]);
                    right[1] = fmaf(weight, b.w, right[1]);
                }
        }
}"""
