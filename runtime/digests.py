"""BLAKE2b, without what the standard library's collection of digests brings along."""

from __future__ import annotations

try:
    # hashlib loads OpenSSL, which takes milliseconds of each start.
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

__all__ = ["blake2b"]
