"""Output for people: on a terminal tables, colour and progress bars; in pipes plain and complete lines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from onnxplan.runtime.devices import compilation_progress

PIPE_WIDTH = 100_000
"""Columns where no terminal sets a limit: tables are only as wide as what they hold."""

QUIET_SECONDS = 1.0
"""Loading a model that takes no longer shows nothing."""

Cell = str | Text


def console(*, stderr: bool = False) -> Console:
    """A console on standard output (or error) as it is now. It takes no markup: names may hold brackets."""
    found = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not found.is_terminal:
        found.width = PIPE_WIDTH
    return found


def table(*columns: str, title: str | None = None, header: bool = True) -> Table:
    """An empty table; long cells wrap on a terminal."""
    found = Table(
        title=Text(title) if title else None, title_justify="left", title_style="bold", show_header=header
    )
    for column in columns:
        found.add_column(Text(column), overflow="fold")
    return found


def add_row(target: Table, *cells: Cell) -> None:
    """A row whose texts are taken literally."""
    target.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def print_error(error: BaseException) -> None:
    """An error of the user's making, in one line on standard error."""
    text = Text.assemble((type(error).__name__, "red"), f": {error}")
    console(stderr=True).print(text, soft_wrap=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, if that is a terminal, and the function that is told (done, total)."""
    screen = console(stderr=True)
    columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class CompilationBar:
    """Shows on a terminal that a model is loaded, once that takes long, and how its kernels are compiled."""

    def __init__(self, screen: Console) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._bar = Progress(*columns, console=screen, transient=True)
        self._lock = threading.Lock()
        self._timer = threading.Timer(QUIET_SECONDS, self._show_loading)
        self._timer.daemon = True
        self._loading = True
        self._timer.start()

    def _show(self, title: str, total: int | None) -> None:
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._bar.add_task(title, total=total)
        self._bar.start()

    def _show_loading(self) -> None:
        with self._lock:
            if self._loading:
                self._show("loading and planning", None)

    def report(self, done: int, total: int) -> None:
        """See :func:`~onnxplan.runtime.devices.compilation_progress`."""
        with self._lock:
            self._loading = False
            if done == 0:
                self._show("compiling kernels", total)
            else:
                self._bar.update(self._bar.task_ids[-1], completed=done)
            if done == total:
                self._bar.stop()

    def loaded(self) -> None:
        """The model is ready: from now on only compilations are shown."""
        self._timer.cancel()
        with self._lock:
            self._loading = False
            self._bar.stop()


@contextmanager
def compilation_bar() -> Iterator[Callable[[], None]]:
    """Shows on standard error how models are loaded inside, if that is a terminal.

    Gives the function to call once the model is loaded, if more is done inside than that.
    """
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda: None
        return
    bar = CompilationBar(screen)
    try:
        with compilation_progress(bar.report):
            yield bar.loaded
    finally:
        bar.loaded()
