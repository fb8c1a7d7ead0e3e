"""The command line: ``onnxplan run | plan | bench | check | doctor``."""

from __future__ import annotations

import sys

from onnxplan.compiler.errors import OnnxPlanError


def main() -> None:
    """Runs the command line; errors of the user's making end in one line and exit status 1."""
    from rich.console import Console

    from onnxplan.cli.commands import application

    try:
        application()
    except (OnnxPlanError, OSError) as error:
        Console(stderr=True).print(
            f"[red]{type(error).__name__}[/red]: {error}", highlight=False, soft_wrap=True
        )
        sys.exit(1)
