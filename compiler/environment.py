"""Settings of the environment: variables that are empty or ``0`` are off.

Knows nothing of the rest of the package, so that all of it may ask.
"""

from __future__ import annotations

import os

OFF = ("", "0")


def is_on(name: str, *, default: bool = False) -> bool:
    """Does the environment turn ``name`` on? ``default`` holds where it says nothing of it."""
    text = os.environ.get(name)
    return default if text is None else text not in OFF


def setting(name: str) -> str | None:
    """What the environment says that ``name`` is, ``None`` where it is off or not there."""
    return os.environ[name] if is_on(name) else None
