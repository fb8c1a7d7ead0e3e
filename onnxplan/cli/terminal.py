"""Output for people: on a terminal tables, colour and progress bars; in pipes plain and complete lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from onnxplan.runtime.devices import compilation_progress

PIPE_WIDTH = 100_000
"""Columns where no terminal sets a limit: tables are only as wide as what they hold."""

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


@contextmanager
def compilation_bar() -> Iterator[None]:
    """Shows on standard error how kernels are compiled for sessions opened inside, if that is a terminal."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield
        return
    columns = TextColumn("compiling kernels"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    bar = Progress(*columns, console=screen, transient=True)

    def report(done: int, total: int) -> None:
        if done == 0:
            for task in bar.task_ids:
                bar.remove_task(task)
            bar.add_task("", total=total)
            bar.start()
        else:
            bar.update(bar.task_ids[-1], completed=done)
        if done == total:
            bar.stop()

    try:
        with compilation_progress(report):
            yield
    finally:
        bar.stop()
