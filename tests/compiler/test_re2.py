"""Patterns of RE2 as Python's, against RE2 itself in onnxruntime."""

import re

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnxplan.compiler.ops.re2 import python_pattern

TEXTS = """
    a A b ab aB AB abc aab ba aaa - ] ^ \\ 1 12 123 ٣ ä Ä ß \u017f K 日本 _ a_1 . a.b a{,2} { } a{1 ( x xyz
    Σ\u03c3ς é \u03b1 Ⅷ € \U0001f600 a@b.com :wo
    """.split()
TEXTS += ["", "a\n", "a\nb", "\n", "a b", " ", "\t", "\v", "\u00a0"]

PATTERNS = r"""
    a a|b a|ab (a)(b)
    (?:a|b)* a+b? a*? a{2} a{1,2} a{2,} a{,2} a{1 { } |a a| () (?) (a|b|)* ((a)|(?:b))+ (?:)*a
    . .* (?s).* (?s:.)b a.b a\.b ^a$ (?m)^a$\n^b$ (?m)a$(?s).b a$ \Aa\z ^*a (a*)+b 日本 [日-本]{2}
    [ab]+ [^a] [a-c]+ []] [^]] [a-] [-a] [\]\-] [[] [a^] [.] [\d_]+ [^\d] [[:word]+
    \d+ \D \s \S+ \w+ \W [\D] [\S] [\W] [^\W] \ba\b a\b.* \B a\Bb
    [[:alpha:]]+ [[:^alpha:]] [[:punct:]] [[:space:]] [[:word:]]+ [^[:alpha:]1] [[:digit:]-]
    (?i)ab (?i:a)b a(?i)b (?i)a(?-i)b (?i)a|b (?i)ä (?i)s (?i)k (?i)[a-c]+ (?U)a* (?i-s).b
    (?P<first>a)b (?<first>a)b (?P<n>a)(?P<n>b) \Qa.b\E \Qa{,2} \Qa\E+ \Qab\E* a\Q\E
    \x61 \x{65e5}\x{672C} \141 \n a\nb \t \x{1F600} [\x41-\x{43}a]+ [\101b] \_ \@ \w+@\w+\.(com|org)
    \pL+ \p{Lu} \PL \p{^Lu} \P{^L} [\pN_]+ [\PN] \p{Nd} \pS \p{Any}+ \pC
    """.split()
PATTERNS += ["", "(?i)\u03c3+"]

BROKEN = r"""
    ( ) a) (a [ [a [b-a] * +a ? |* (*a) a** a+?+ a*+ a{2}{3} a{1001} a{2,1} \Q\E*a (?P<n
    \1 (a)\1 \8 (?=a) (?!a) (?<=a)b (?<!a)b (?>a) (?P=n) (?#c) (?x)a (?i
    \ \y \Z \p{Xx} \pX \p [[:none:]] \x{110000} \xg [\q] \u0041 [a-\d]
    """.split()


def peer(pattern, texts):
    """What onnxruntime answers; raises where it refuses the pattern."""
    node = helper.make_node("RegexFullMatch", ["x"], ["y"], pattern=pattern)
    x = helper.make_tensor_value_info("x", TensorProto.STRING, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.BOOL, ["n"])
    graph = helper.make_graph([node], "match", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"x": np.array(texts, object)})[0]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_matches_what_re2_matches(pattern):
    compiled = re.compile(python_pattern(pattern))
    found = [compiled.fullmatch(text) is not None for text in TEXTS]
    right = peer(pattern, TEXTS)
    assert [text for text, a, b in zip(TEXTS, found, right, strict=True) if a != b] == []


@pytest.mark.parametrize("pattern", BROKEN)
def test_refuses_what_re2_refuses(pattern):
    with pytest.raises(Exception, match="Invalid regex pattern"):
        peer(pattern, ["a"])
    with pytest.raises(ValueError, match=r"the pattern .* cannot be used: "):
        python_pattern(pattern)


@pytest.mark.parametrize("pattern", [r"\p{Greek}", r"\C"])
def test_refuses_what_python_cannot_express(pattern):
    peer(pattern, ["a"])
    with pytest.raises(ValueError, match="cannot be used"):
        python_pattern(pattern)
