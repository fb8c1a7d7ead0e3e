"""Regular expressions of RE2 as such of Python's ``re``, for matching whole texts.

Source: https://github.com/google/re2/wiki/Syntax. Classes, word boundaries, ``$``, flags within a pattern and
repetitions mean what they mean in RE2, and what RE2 has not (back references, looking ahead, possessive
repetitions) is refused. What differs:

* Scripts (``\\p{Greek}``) are refused: Python's tables have general categories only. ``\\C`` is refused, too.
* Letters are compared without case by Python's rules.
* ``re`` backtracks: time may be exponential in the length of a text for patterns such as ``(a*)*b``.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Iterable

from onnxplan.compiler.records import dataclass

MOST_REPETITIONS = 1000

_DIGITS, _SPACES, _WORD = "0-9", "\\t\\n\\f\\r ", "0-9A-Za-z_"
_CLASSES = {
    "d": _DIGITS,
    "D": "\\x00-/:-\\U0010ffff",
    "s": _SPACES,
    "S": "\\x00-\\x08\\x0b\\x0e-\\x1f!-\\U0010ffff",
    "w": _WORD,
    "W": "\\x00-/:-@\\[-\\^`{-\\U0010ffff",
}
_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": "\\x00-\\x7f",
    "blank": "\\t ",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": _DIGITS,
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": "\\t\\n\\x0b\\f\\r ",
    "upper": "A-Z",
    "word": _WORD,
    "xdigit": "0-9A-Fa-f",
}
_CONTROLS = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_EMPTY_WIDTH = {"A": r"\A", "z": r"\Z", "b": r"(?a:\b)", "B": r"(?a:(?!\b))"}
_REPETITION = re.compile(r"\{([0-9]+)(?:(,)([0-9]*))?\}")
_FLAGS = re.compile(r"\?([imsU]*)(?:-([imsU]+))?([:)])")
_NAME = re.compile(r"\?P?<(\w+)>")


def python_pattern(pattern: str) -> str:
    """The pattern of ``re`` whose ``fullmatch`` tells what RE2's FullMatch of ``pattern`` tells.

    Raises ``ValueError`` for what is no pattern of RE2, and for what ``re`` cannot express.
    """
    translation = _Translation(pattern)
    try:
        return translation.alternatives(frozenset(), nested=False)
    except ValueError as error:
        raise ValueError(f"the pattern {pattern!r} cannot be used: {error}") from None


@dataclass(slots=True)
class _Translation:
    """A pattern and how far it was read."""

    pattern: str
    position: int = 0

    def peek(self) -> str:
        """The next character, empty at the end."""
        return self.pattern[self.position : self.position + 1]

    def take(self) -> str:
        character = self.peek()
        if not character:
            raise ValueError("it ends too early")
        self.position += 1
        return character

    def take_match(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        found = expression.match(self.pattern, self.position)
        if found is not None:
            self.position = found.end()
        return found

    def alternatives(self, flags: frozenset[str], *, nested: bool) -> str:
        """Everything up to the end of the group, or of the pattern.

        Flags that are set within a group hold up to its end, beyond ``|``, so each character carries its own.
        """
        parts: list[str] = []
        while character := self.peek():
            if character == ")":
                if not nested:
                    raise ValueError("a parenthesis is closed that was not opened")
                break
            self.position += 1
            if character == "|":
                parts.append("|")
            elif character == "(" and (found := self.take_match(_FLAGS)):
                chosen = (flags | set(found[1])) - set(found[2] or "")
                if found[3] == ")":
                    flags = chosen
                else:
                    parts.append(self.repeated(self.group(chosen)))
            else:
                parts.append(self.repeated(self.atom(character, flags)))
        return "".join(parts)

    def group(self, flags: frozenset[str]) -> str:
        inner = self.alternatives(flags, nested=True)
        if self.peek() != ")":
            raise ValueError("a parenthesis is not closed")
        self.position += 1
        return f"(?:{inner})"

    def atom(self, character: str, flags: frozenset[str]) -> str:
        """What ``character``, taken already, begins, as one item that can be repeated."""
        if character == "(":
            if not self.take_match(_NAME) and self.peek() == "?":
                raise ValueError(f"the group {self.pattern[self.position - 1 : self.position + 2]!r}")
            return self.group(flags)
        if character == "[":
            return _with_case(self.set_of_characters(), flags)
        if character in "*+?":
            raise ValueError(f"nothing is repeated by {character!r}")
        if character == ".":
            return "(?s:.)" if "s" in flags else "[^\\n]"
        if character == "^":
            return "(?m:^)" if "m" in flags else r"(?:\A)"
        if character == "$":
            return "(?m:$)" if "m" in flags else r"(?:\Z)"
        if character != "\\":
            return _with_case(re.escape(character), flags)
        escape = self.peek()
        if escape in _EMPTY_WIDTH:
            self.position += 1
            return f"(?:{_EMPTY_WIDTH[escape]})"
        if escape == "Q":
            return self.quoted(flags)
        return _with_case(f"[{self.escaped()}]", flags)

    def quoted(self, flags: frozenset[str]) -> str:
        text, _, _ = self.pattern[self.position + 1 :].partition("\\E")
        self.position = min(self.position + 1 + len(text) + 2, len(self.pattern))
        items = [_with_case(re.escape(character), flags) for character in text]
        # A repetition after it repeats the last character alone.
        return "".join([*items[:-1], self.repeated(items[-1])]) if items else ""

    def repeated(self, item: str) -> str:
        """``item`` with the repetition that follows, if one does."""
        operator = self.repetition()
        if operator is None:
            return item
        if not item:
            raise ValueError(f"nothing is repeated by {operator!r}")
        if self.peek() == "?":
            # Greedy or not: the whole text matches or does not.
            self.position += 1
        start = self.position
        if self.repetition() is not None:
            raise ValueError(f"the repetition {self.pattern[start : self.position]!r} of a repetition")
        return f"{item}{operator}"

    def repetition(self) -> str | None:
        character = self.peek()
        if character in ("*", "+", "?"):
            self.position += 1
            return character
        found = self.take_match(_REPETITION)
        if found is None:
            return None
        counts = [int(count) for count in (found[1], found[3]) if count]
        if max(counts) > MOST_REPETITIONS or counts != sorted(counts):
            raise ValueError(f"the repetition {found[0]!r}")
        return found[0]

    def set_of_characters(self) -> str:
        """A class in brackets, whose first one is taken already."""
        negated = self.peek() == "^"
        self.position += negated
        items: list[str] = []
        while self.peek() != "]" or not items:
            if posix := self.posix():
                items.append(posix)
                continue
            first = self.set_item()
            if self.peek() == "-" and self.pattern[self.position + 1 : self.position + 2] not in ("]", ""):
                self.position += 1
                last = self.set_item()
                if not isinstance(first, int) or not isinstance(last, int) or first > last:
                    raise ValueError("a range of characters is empty")
                items.append(f"{_literal(first)}-{_literal(last)}")
            else:
                items.append(_literal(first) if isinstance(first, int) else first)
        self.position += 1
        return f"[{'^' if negated else ''}{''.join(items)}]"

    def posix(self) -> str:
        found = self.take_match(re.compile(r"\[:(\^?)(\w+):\]"))
        if found is None:
            return ""
        if found[2] not in _POSIX:
            raise ValueError(f"the class {found[0]!r}")
        return _complement(_POSIX[found[2]]) if found[1] else _POSIX[found[2]]

    def set_item(self) -> int | str:
        """The code of the next character of a class, or the text of a class within it."""
        character = self.take()
        if character != "\\":
            return ord(character)
        escaped = self.escaped()
        found = re.fullmatch(r"\\U([0-9a-f]{8})", escaped)
        return int(found[1], 16) if found else escaped

    def escaped(self) -> str:
        """What stands behind a backslash, as the inside of a class."""
        character = self.take()
        if character in _CLASSES:
            return _CLASSES[character]
        if character in "pP":
            return self.category(negated=character == "P")
        if character in _CONTROLS:
            return _literal(_CONTROLS[character])
        if character == "x":
            found = self.take_match(re.compile(r"\{([0-9A-Fa-f]{1,6})\}|([0-9A-Fa-f]{2})"))
            if found is None or int(found[1] or found[2], 16) > sys.maxunicode:
                raise ValueError(r"\x is followed by no code")
            return _literal(int(found[1] or found[2], 16))
        if character in "01234567":
            self.position -= 1
            found = self.take_match(re.compile("0[0-7]{0,2}|[1-7][0-7]{1,2}"))
            if found is None:
                raise ValueError(f"the reference \\{character}")
            return _literal(int(found[0], 8))
        if character.isascii() and not character.isalnum():
            return _literal(ord(character))
        raise ValueError(f"the escape \\{character}")

    def category(self, *, negated: bool) -> str:
        found = self.take_match(re.compile(r"\{(\^?)(\w+)\}|([A-Z])"))
        if found is None:
            raise ValueError(r"\p is followed by no category")
        name = found[2] or found[3]
        inside = _category(name)
        return _complement(inside) if negated != bool(found[1]) else inside


def _literal(code: int) -> str:
    return f"\\U{code:08x}"


def _with_case(item: str, flags: frozenset[str]) -> str:
    return f"(?i:{item})" if "i" in flags else item


def _complement(inside: str) -> str:
    """The inside of a class of all characters that are not in a class."""
    return _ranges(map(ord, re.findall(f"[^{inside}]", _all_characters())))


@functools.cache
def _all_characters() -> str:
    return "".join(map(chr, range(sys.maxunicode + 1)))


@functools.lru_cache(maxsize=64)
def _category(name: str) -> str:
    if name == "Any":
        return "\\x00-\\U0010ffff"
    codes = [code for code, category in enumerate(_categories()) if category.startswith(name)]
    if not codes:
        raise ValueError(f"{name!r} is no general category; scripts are not supported")
    return _ranges(codes)


@functools.cache
def _categories() -> list[str]:
    """The general category of every character; RE2 has none for those that are not assigned."""
    found = map(unicodedata.category, _all_characters())
    return ["" if category == "Cn" else category for category in found]


def _ranges(codes: Iterable[int]) -> str:
    """The inside of a class of the characters with these rising codes."""
    parts: list[tuple[int, int]] = []
    for code in codes:
        if parts and parts[-1][1] == code - 1:
            parts[-1] = (parts[-1][0], code)
        else:
            parts.append((code, code))
    return "".join(f"{_literal(first)}-{_literal(last)}" for first, last in parts)
