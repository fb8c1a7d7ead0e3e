"""The command line: ``onnxplan run``, ``plan``, ``profile``, ``explain``, ``bench``, ``compile`` and others.

Exit status: 0 for success, 1 for what fails (a model that cannot be read or run, a file that cannot be
written, gaps that ``check`` found), 2 for arguments that make no sense. Of ``compare``, 1 says that something
differs, and 2 stands for failures too.
"""

from __future__ import annotations

import io
import sys

from onnxplan.compiler.errors import OnnxPlanError


def main() -> None:
    """Runs the command line; errors of the user's making end in one line and exit status 1."""
    from onnxplan.cli.commands import application
    from onnxplan.cli.terminal import print_error

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names in a model may hold characters that the terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    try:
        application()
    except (OnnxPlanError, OSError) as error:
        print_error(error)
        sys.exit(1)
