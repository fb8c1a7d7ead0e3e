"""Which attributes cuDNN's backend descriptors take, and since which version, as its header says."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_void_p
from typing import Any

SUCCESS, NOT_INITIALIZED, BAD_PARAM, NULL_POINTER, NOT_FINALIZED = 0, 1001, 2000, 2002, 2004
ATTRIBUTE_TYPE, DESCRIPTOR_TYPE, NOT_SUPPORTED, EXECUTION_FAILED = 2010, 2012, 3000, 5000
POINTWISE, CONVOLUTION, ENGINE, ENGINECFG, ENGINEHEUR, PLAN = range(6)
KNOB_CHOICE = 7
CONVOLVE, APPLY, GRAPH, PACK, TENSOR = 10, 13, 15, 16, 17
MATMUL, MULTIPLY, REDUCTION, REDUCE, ATTEND, BAND, SOFTMAX = 18, 19, 21, 22, 41, 44, 45
OPERATIONS = (CONVOLVE, APPLY, MULTIPLY, REDUCE, ATTEND, BAND, SOFTMAX)
HANDLE, DATA_TYPE, BOOLEAN, INT64, FLOAT, POINTER, CONVOLUTION_MODE, HEUR_MODE = 0, 1, 2, 3, 4, 6, 7, 8
KNOB_TYPE, NUMERICAL_NOTE, POINTWISE_MODE, DESCRIPTOR, REDUCTION_OPERATOR = 9, 11, 14, 15, 18
ELEMENTS: dict[int, Any] = {
    HANDLE: c_void_p,
    DATA_TYPE: c_int,
    BOOLEAN: ctypes.c_bool,
    INT64: c_int64,
    FLOAT: ctypes.c_float,
    POINTER: c_void_p,
    CONVOLUTION_MODE: c_int,
    HEUR_MODE: c_int,
    KNOB_TYPE: c_int,
    NUMERICAL_NOTE: c_int,
    POINTWISE_MODE: c_int,
    DESCRIPTOR: c_void_p,
    REDUCTION_OPERATOR: c_int,
}
MOST_AXES = 8
MANY = 1 << 20
# For each kind: attribute -> (type, most elements, required, kinds of descriptors that it takes).
SETTABLE: dict[int, dict[int, tuple[int, int, bool, tuple[int, ...]]]] = {
    POINTWISE: {
        0: (POINTWISE_MODE, 1, True, ()),
        1: (DATA_TYPE, 1, True, ()),
        9: (INT64, 1, False, ()),
    },
    CONVOLUTION: {
        100: (DATA_TYPE, 1, True, ()),
        101: (CONVOLUTION_MODE, 1, True, ()),
        **dict.fromkeys((102, 103, 104, 105), (INT64, MOST_AXES, True, ())),
        106: (INT64, 1, True, ()),
    },
    ENGINEHEUR: {200: (HEUR_MODE, 1, True, ()), 201: (DESCRIPTOR, 1, True, (GRAPH,))},
    PLAN: {400: (HANDLE, 1, True, ()), 401: (DESCRIPTOR, 1, True, (ENGINECFG,))},
    CONVOLVE: {
        700: (FLOAT, 1, True, ()),
        701: (FLOAT, 1, True, ()),
        702: (DESCRIPTOR, 1, True, (CONVOLUTION,)),
        **dict.fromkeys((703, 704, 705), (DESCRIPTOR, 1, True, (TENSOR,))),
    },
    APPLY: {
        750: (DESCRIPTOR, 1, True, (POINTWISE,)),
        751: (DESCRIPTOR, 1, True, (TENSOR,)),
        752: (DESCRIPTOR, 1, False, (TENSOR,)),
        753: (DESCRIPTOR, 1, True, (TENSOR,)),
        758: (DESCRIPTOR, 1, False, (TENSOR,)),
    },
    MATMUL: {1500: (DATA_TYPE, 1, True, ())},
    MULTIPLY: {
        **dict.fromkeys((1520, 1521, 1522), (DESCRIPTOR, 1, True, (TENSOR,))),
        1523: (DESCRIPTOR, 1, True, (MATMUL,)),
    },
    REDUCTION: {1600: (REDUCTION_OPERATOR, 1, True, ()), 1601: (DATA_TYPE, 1, True, ())},
    REDUCE: {
        **dict.fromkeys((1610, 1611), (DESCRIPTOR, 1, True, (TENSOR,))),
        1612: (DESCRIPTOR, 1, True, (REDUCTION,)),
    },
    ATTEND: {
        **dict.fromkeys((2800, 2801, 2802, 2803), (DESCRIPTOR, 1, True, (TENSOR,))),
        2805: (DESCRIPTOR, 1, False, (TENSOR,)),
        2811: (DESCRIPTOR, 1, False, (GRAPH,)),
        **dict.fromkeys((2812, 2813), (INT64, 1, False, ())),
    },
    BAND: {
        **dict.fromkeys((3000, 3005, 3006), (DESCRIPTOR, 1, True, (TENSOR,))),
        3007: (POINTWISE_MODE, 1, True, ()),
    },
    SOFTMAX: dict.fromkeys((3100, 3101), (DESCRIPTOR, 1, True, (TENSOR,))),
    GRAPH: {800: (HANDLE, 1, False, ()), 801: (DESCRIPTOR, MANY, True, OPERATIONS)},
    TENSOR: {
        900: (INT64, 1, True, ()),
        901: (DATA_TYPE, 1, True, ()),
        902: (INT64, MOST_AXES, True, ()),
        903: (INT64, MOST_AXES, True, ()),
        906: (INT64, 1, True, ()),
        907: (BOOLEAN, 1, False, ()),
        908: (BOOLEAN, 1, False, ()),
    },
    PACK: {
        1000: (INT64, MANY, True, ()),
        1001: (POINTER, MANY, True, ()),
        1003: (POINTER, 1, True, ()),
    },
    ENGINE: {},
    ENGINECFG: {},
    KNOB_CHOICE: {},
}
SINCE = {ATTEND: 91300, BAND: 92000, SOFTMAX: 92000}
"""The first version with a kind of descriptor, and with an attribute of one."""
ATTRIBUTES_SINCE = {2811: 92100, 2812: 92100, 2813: 92100}
