"""StringConcat, StringSplit, StringNormalizer, RegexFullMatch, and operators that move strings about."""

import numpy as np
from cases import BOOL, FLOAT32, TEXT, Case, case, known, shape_of, texts, uniform
from onnx import helper

WORDS = texts("a", "ü", "", "日本", "b", "a", shape=(2, 3))
EMPTY = np.empty((2, 0), object)
NO_TEXT = texts("")


def concat_cases() -> list[Case]:
    pairs = {
        "columns": (WORDS, texts("1", "", "ö", shape=(1, 3))),
        "scalar": (texts("é").reshape(()), WORDS),
        "scalars": (texts("é").reshape(()), texts("").reshape(())),
        "both spread": (texts("x", "y", shape=(2, 1)), texts("1", "2", "3")),
        "empty": (EMPTY, texts("a")),
    }
    return [
        case(name, "StringConcat", {"x": x, "y": y}, reference=lambda a, b: a + b, dtypes=(TEXT,))
        for name, (x, y) in pairs.items()
    ]


def split_cases() -> list[Case]:
    x = texts("a,b,,c", ",", "", "ä,日本,", shape=(2, 2))
    spaced = texts(" a  b c ", "\ta\u00a0b\u3000\n", "", "abc")
    cases = [
        known(
            "comma",
            "StringSplit",
            {"x": x},
            texts(*"a|b||c|||||||||ä|日本||".split("|"), shape=(2, 2, 4)),
            np.array([[4, 2], [1, 3]]),
            attributes={"delimiter": ","},
        ),
        known(
            "two characters",
            "StringSplit",
            {"x": texts("a, b,c, ", "", ", ,")},
            texts("a", "b,c", "", "", "", "", "", ",", "", shape=(3, 3)),
            np.array([3, 1, 2]),
            attributes={"delimiter": ", "},
        ),
        known(
            "one split",
            "StringSplit",
            {"x": x},
            texts("a", "b,,c", "", "", "", "", "ä", "日本,", shape=(2, 2, 2)),
            np.array([[2, 2], [1, 2]]),
            attributes={"delimiter": ",", "maxsplit": 1},
        ),
        known(
            "no split",
            "StringSplit",
            {"x": spaced},
            texts("a  b c", "a\u00a0b", "", "abc", shape=(4, 1)),
            np.array([1, 1, 0, 1]),
            attributes={"maxsplit": 0},
        ),
        known(
            "nothing but blanks",
            "StringSplit",
            {"x": texts("", " ")},
            np.empty((2, 0), object),
            np.array([0, 0]),
        ),
        known("empty", "StringSplit", {"x": EMPTY}, np.empty((2, 0, 0), object), np.empty((2, 0), np.int64)),
    ]
    for name, attributes in (("white space", {}), ("empty delimiter", {"delimiter": "", "maxsplit": -1})):
        parts = texts("a", "b", "c", "a", "b", "", "", "", "", "abc", "", "", shape=(4, 3))
        counts = np.array([3, 2, 0, 1])
        cases.append(known(name, "StringSplit", {"x": spaced}, parts, counts, attributes=attributes))
    parts = texts("a", "b c", "a", "b", "", "", "abc", "", shape=(4, 2))
    counts = np.array([2, 2, 0, 1])
    cases.append(known("rest", "StringSplit", {"x": spaced}, parts, counts, attributes={"maxsplit": 1}))
    cases.append(
        known("scalar", "StringSplit", {"x": texts("x y").reshape(())}, texts("x", "y"), np.array(2))
    )
    return cases


def normalizer_cases() -> list[Case]:
    x = texts("Monday", "monday", "", "STRASSE", "straße", "ÀÉ", "ΑΣ", "Ibis")
    stop = {"stopwords": ["monday", "straße"]}
    table = {
        "nothing": ({}, x),
        "lower": (
            {"case_change_action": "LOWER"},
            texts("monday", "monday", "", "strasse", "straße", "àé", "ας", "ibis"),
        ),
        "upper": (
            {"case_change_action": "UPPER"},
            texts("MONDAY", "MONDAY", "", "STRASSE", "STRASSE", "ÀÉ", "ΑΣ", "IBIS"),
        ),
        "stop": (stop, texts("", "STRASSE", "ÀÉ", "ΑΣ", "Ibis")),
        "stop exactly": (
            {**stop, "is_case_sensitive": 1, "case_change_action": "UPPER"},
            texts("MONDAY", "", "STRASSE", "ÀÉ", "ΑΣ", "IBIS"),
        ),
        "stop capitals": ({"stopwords": ["MONDAY", ""]}, texts("STRASSE", "straße", "ÀÉ", "ΑΣ", "Ibis")),
        "stop all": ({"stopwords": sorted(x.tolist())}, NO_TEXT),
        "turkish lower": (
            {"locale": "tr_TR.UTF-8", "case_change_action": "LOWER"},
            texts("monday", "monday", "", "strasse", "straße", "àé", "ας", "\u0131bis"),
        ),
        "azerbaijani upper": (
            {"locale": "az", "case_change_action": "UPPER"},
            texts("MONDAY", "MONDAY", "", "STRASSE", "STRASSE", "ÀÉ", "ΑΣ", "IBİS"),
        ),
    }
    cases = [
        known(name, "StringNormalizer", {"x": x}, result, attributes=attributes)
        for name, (attributes, result) in table.items()
    ]
    for name, source, result in (
        ("row", x[None, :2], texts("", shape=(1, 1))),
        ("empty", np.empty(0, object), NO_TEXT),
        ("empty row", np.empty((1, 0), object), NO_TEXT.reshape(1, 1)),
    ):
        cases.append(known(name, "StringNormalizer", {"x": source}, result, attributes=stop))
    return cases


def moved_cases() -> list[Case]:
    """Strings chosen by numbers that a run computes, and strings that numbers become."""
    positions = np.array([1, 0, 1])
    pad = {"x": WORDS, "pads": shape_of(0, 1, 1, 0)}
    square = texts(*"abcdefghi", shape=(3, 3))
    return [
        known("strings", "Gather", {"x": WORDS, "i": positions}, WORDS[positions]),
        known(
            "strings",
            "GatherElements",
            {"x": WORDS, "i": positions[None]},
            texts("日本", "ü", "a", shape=(1, 3)),
        ),
        known("strings", "GatherND", {"x": WORDS, "i": np.array([[0, 1], [1, 0]])}, texts("ü", "日本")),
        known(
            "strings",
            "ScatterElements",
            {"x": WORDS, "i": positions[None], "u": texts("p", "q", "r", shape=(1, 3))},
            texts("a", "q", "", "p", "b", "r", shape=(2, 3)),
        ),
        known(
            "strings",
            "Where",
            {"c": np.array([[True], [False]]), "x": WORDS, "y": texts("1", "2", "3")},
            texts("a", "ü", "", "1", "2", "3", shape=(2, 3)),
        ),
        known(
            "strings",
            "OneHot",
            {"i": np.array([0, 2]), "n": np.array(3), "v": texts("off", "on")},
            texts("on", "off", "off", "off", "off", "on", shape=(2, 3)),
            constants=("n",),
        ),
        known(
            "strings",
            "Compress",
            {"x": WORDS, "c": np.array([True, False, True])},
            WORDS[:, ::2],
            attributes={"axis": 1},
        ),
        known("strings", "Pad", pad, texts("", "a", "ü", "", "", "日本", "b", "a", *[""] * 4, shape=(3, 4))),
        known(
            "strings with",
            "Pad",
            {**pad, "v": texts("%").reshape(())},
            texts("%", "a", "ü", "", "%", "日本", "b", "a", *"%%%%", shape=(3, 4)),
        ),
        known("strings", "Trilu", {"x": square}, texts(*"abc", "", *"ef", "", "", "i", shape=(3, 3))),
        known(
            "strings",
            "CenterCropPad",
            {"x": WORDS, "s": shape_of(3, 2)},
            texts("a", "ü", "日本", "b", "", "", shape=(3, 2)),
        ),
        known(
            "strings",
            "GridSample",
            {"x": texts(*"abcd", shape=(1, 1, 2, 2)), "g": np.array([[[[-1, 1], [9, 0]]]], np.float32)},
            texts("c", "", shape=(1, 1, 1, 2)),
            attributes={"mode": "nearest", "align_corners": 1},
        ),
        known("strings", "Equal", {"x": WORDS, "y": texts("a", "b", "")}, texts("a", "b", "") == WORDS),
    ]


def computed_cases() -> list[Case]:
    """Chains in which strings stand between what a run computes before and after them."""
    make = helper.make_node
    number = (make("Mul", ["x", "x"], ["s"]), make("Cast", ["s"], ["t"], to=8))
    chain = (
        *number,
        make("StringConcat", ["t", "u"], ["joined"]),
        make("Cast", ["joined"], ["n"], to=1),
        make("Add", ["n", "x"], ["y"]),
    )
    label = (
        make("ArgMax", ["x"], ["i"], axis=-1, keepdims=0),
        make("Gather", ["w", "i"], ["label"]),
    )
    return [
        Case(
            "strings-between",
            chain,
            {"x": uniform(FLOAT32, 7, low=1, high=9), "u": texts("0")},
            ("joined", "y"),
            reference=lambda x, u: joined_and_read(x),
            dtypes=(TEXT, FLOAT32),
        ),
        Case(
            "strings-labels",
            label,
            {"x": uniform(FLOAT32, 4, 3), "w": WORDS[1]},
            ("label",),
            constants=("w",),
            reference=lambda x, w: w[np.argmax(x, -1)],
            dtypes=(TEXT,),
        ),
    ]


def joined_and_read(x):
    squares = (x.astype(np.float32) * x.astype(np.float32)).tolist()
    joined = texts(*(f"{square:.8g}0" for square in squares))
    return joined, joined.astype(float) + x


MATCHES = {
    "words": (r"\w+@\w+\.(com|org)", "a@b.com", "ä@b.com", "a@b.comx", "", "a_9@x.org"),
    "whole": ("a|ab", "ab", "a", "abc", "b"),
    "unicode": ("[日ü]{2,3}", "日ü", "日", "üüüü", "ü日ü"),
    "ends": ("(?s)a$.?", "a", "a\n", "ab"),
    "flags": ("a(?i)b|c(?-i:d)", "aB", "Ab", "C", "Cd", "cd", "CD"),
    "empty": ("", "", " "),
}


def match_cases() -> list[Case]:
    found = {
        "words": [1, 0, 0, 0, 1],
        "whole": [1, 1, 0, 0],
        "unicode": [1, 0, 0, 1],
        "ends": [1, 0, 0],
        "flags": [1, 0, 0, 1, 1, 0],
        "empty": [1, 0],
    }
    cases = [
        known(
            name,
            "RegexFullMatch",
            {"x": texts(*items)},
            np.array(found[name], BOOL),
            attributes={"pattern": pattern},
        )
        for name, (pattern, *items) in MATCHES.items()
    ]
    cases.append(
        known("nothing", "RegexFullMatch", {"x": EMPTY}, np.empty((2, 0), BOOL), attributes={"pattern": "a*"})
    )
    return cases


CASES = [
    *concat_cases(),
    *split_cases(),
    *normalizer_cases(),
    *moved_cases(),
    *computed_cases(),
    *match_cases(),
]
