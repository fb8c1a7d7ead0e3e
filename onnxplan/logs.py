"""The log on standard error that the environment variable ``ONNXPLAN_LOG`` asks for.

``ONNXPLAN_LOG=info`` shows all messages from that level on; ``info,store=debug,plan=warning`` has other
levels for some loggers below ``onnxplan``. Programs that set up :mod:`logging` themselves need none of it.
"""

from __future__ import annotations

import logging

VARIABLE = "ONNXPLAN_LOG"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOGGERS = ("compile", "cuda", "plan", "profile", "run", "store", "team", "workers")
"""Loggers below ``onnxplan``."""
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

logger = logging.getLogger("onnxplan")


def parse_levels(text: str) -> dict[str, int]:
    """The levels of ``text`` by the names of loggers, where ``onnxplan`` is that of all others.

    Raises ``ValueError``, which says what was expected.
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        name, equals, level = part.rpartition("=")
        if level.strip().upper() not in LEVELS:
            raise ValueError(f"{VARIABLE}={text}: {level.strip()!r} is none of {', '.join(LEVELS).lower()}")
        if equals and name.strip() not in LOGGERS:
            raise ValueError(f"{VARIABLE}={text}: {name.strip()!r} is none of {', '.join(LOGGERS)}")
        full = f"onnxplan.{name.strip()}" if equals else "onnxplan"
        found[full] = getattr(logging, level.strip().upper())
    return found


def show_log(text: str) -> None:
    """Sends messages of the levels in ``text`` to standard error, and what is wrong with the text."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT))
    logger.addHandler(handler)
    try:
        levels = parse_levels(text)
    except ValueError as error:
        logger.warning("%s; messages from level warning on are shown", error)
        levels = {"onnxplan": logging.WARNING}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
