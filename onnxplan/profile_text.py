"""A profile as text and as the cells of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from onnxplan.compiler.plan_text import NODES_WIDTH, duration, shorten

if TYPE_CHECKING:
    from onnxplan.profiling import Profile, StepProfile

HEADINGS = ("step", "kernel", "time", "share", "GFLOP/s", "GB/s", "of ceiling", "nodes")
GROUPINGS = ("step", "kernel", "operator")


def profile_rows(profile: Profile, by: str = "step", *, longest: bool = False) -> Sequence[StepProfile]:
    """The rows of the steps in order (or ``longest`` first), or summed ``by`` ``kernel`` or ``operator``."""
    if by not in GROUPINGS:
        raise ValueError(f"by must be one of {', '.join(GROUPINGS)}, not {by!r}")
    if by == "kernel":
        return profile.by_kernel()
    if by == "operator":
        return profile.by_operator()
    rows = profile.rows
    return sorted(rows, key=lambda row: row.seconds, reverse=True) if longest else rows


def profile_cells(profile: Profile, rows: Iterable[StepProfile]) -> list[tuple[str, ...]]:
    """Texts under :data:`HEADINGS` for each row. Steps of later stages are numbered ``stage.step``."""
    stage_of = {id(row): stage.index for stage in profile.stages for row in stage.rows}
    several = len(profile.stages) > 1
    cells = []
    for row in rows:
        stage = stage_of.get(id(row))
        number = "" if row.index is None else str(row.index)
        if several and stage is not None:
            number = f"{stage}.{number}" if number else str(stage)
        if stage is None and row.kind != "between":
            number = f"{row.count} x"
        cells.append((number, _label(row), *_figures(profile, row)))
    return cells


def _label(row: StepProfile) -> str:
    if row.kind != "between":
        return row.kernel
    return "between steps" if row.family == "stage" else "between stages, checks and results"


def _figures(profile: Profile, row: StepProfile) -> tuple[str, ...]:
    time = f"-{duration(-row.seconds)}" if row.seconds < 0 else duration(row.seconds)
    worked = row.kind == "step"
    return (
        time,
        f"{profile.share(row):.1%}",
        f"{1e-9 * row.flops_per_second:.1f}" if worked else "",
        f"{1e-9 * row.bytes_per_second:.1f}" if worked else "",
        f"{row.ceiling_share:.0%}" if worked and row.ceiling else "",
        shorten(", ".join(row.nodes), NODES_WIDTH),
    )


def profile_summary(profile: Profile) -> list[str]:
    """What stands around the table: the run, the machine, the stages."""
    lines = [
        f"{profile.model or 'model'} on {profile.target}: {duration(profile.seconds)} a run, "
        f"the median of {profile.runs}"
    ]
    ceilings = profile.ceilings
    if ceilings is not None:
        worked = sum(row.ceiling for row in profile.rows)
        share = worked / profile.seconds if profile.seconds > 0 else 0.0
        lines.append(
            f"ceilings: {1e-9 * ceilings.flops:.0f} GFLOP/s, {1e-9 * ceilings.bandwidth:.1f} GB/s; at them "
            f"the steps would take {duration(worked)}, {share:.0%} of the run"
        )
    if len(profile.stages) > 1:
        lines += [
            f"stage {stage.index}: {duration(stage.seconds)}, {len(stage.steps)} steps"
            + (f"; ends as {stage.ends}" if stage.ends else "")
            for stage in profile.stages
        ]
    return lines


def profile_to_text(profile: Profile) -> str:
    """A table with a line for each row of :attr:`onnxplan.profiling.Profile.rows`."""
    lines = [HEADINGS, *profile_cells(profile, profile.rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEADINGS))]
    table = [
        "  ".join(
            cell.ljust(width) if heading in ("kernel", "nodes") else cell.rjust(width)
            for heading, cell, width in zip(HEADINGS, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*profile_summary(profile), "", *table])
