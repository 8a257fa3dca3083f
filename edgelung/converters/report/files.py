"""A report on disk: report.json, report.md and pictures; report.json last, so that its presence means complete."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Final

from edgelung._codec import from_json, parse_json, to_json
from edgelung.converters.report.markdown import render_markdown
from edgelung.converters.report.plots import PLOTS, draw_plots
from edgelung.converters.report.records import Report
from edgelung.errors import ConversionError, InputError

__all__ = ["REPORT_NAME", "read_report", "write_report"]

REPORT_NAME: Final = "report.json"
TEXT_NAME: Final = "report.md"
MAX_FILE_BYTES = 4 << 20


def write_report(folder: Path, report: Report) -> None:
    """Write a report, in place of an older one in the same folder; files of other names stay.

    Everything is made beside the folder first. Then the older report.json goes, the new files come, report.json last.

    Raises:
        ConversionError: When it cannot be written; an older report is then whole, or has lost its report.json.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".report-", dir=folder.absolute().parent))
        try:
            plots = draw_plots(report, work)
            (work / TEXT_NAME).write_text(render_markdown(report, plots), encoding="utf-8")
            (work / REPORT_NAME).write_text(json.dumps(to_json(report), indent=1) + "\n", encoding="utf-8")
            for name in (REPORT_NAME, *PLOTS):
                (folder / name).unlink(missing_ok=True)
            for name in (*plots, TEXT_NAME, REPORT_NAME):
                (work / name).replace(folder / name)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        reason = f"{folder} could not be written ({error.strerror or error})"
        raise ConversionError("report", reason, hint="choose another folder, or free some space") from None


def read_report(folder: Path) -> Report:
    """Read a report.

    Raises:
        InputError: When there is none, or it is no report of this version.
    """
    path = folder / REPORT_NAME
    hint = "make the report again"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", source=path, hint=hint) from None
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"is larger than {MAX_FILE_BYTES} bytes", source=path, hint=hint)
    try:
        return from_json(Report, parse_json(content))
    except ValueError as error:
        raise InputError(f"is no report: {error}", source=path, hint=hint) from None
