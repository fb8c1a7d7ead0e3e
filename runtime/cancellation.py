"""Asking a run to stop."""

from __future__ import annotations

import ctypes


class Cancelled(Exception):  # noqa: N818 - tells that a run was asked to stop, which is no error
    """A run stopped between two steps because its cancel flag was set; its outputs hold nothing of use."""


class CancelFlag:
    """Stops the runs it is given to before their next step; may be set from any thread, before or during."""

    __slots__ = ("_word", "address")

    def __init__(self) -> None:
        self._word = ctypes.c_int64(0)
        self.address = ctypes.addressof(self._word)
        """Address of the 64-bit word that native code watches; it is 0 until the flag is set."""

    def set(self) -> None:
        self._word.value = 1

    @property
    def is_set(self) -> bool:
        return bool(self._word.value)
