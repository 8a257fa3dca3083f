"""``edgelung report``: bundles side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelung.errors import InputError

if TYPE_CHECKING:
    from edgelung.converters.report import ReportRow

__all__ = ["report"]

TITLE = "Bundles side by side"


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder for report.json, .md and plots.")
@click.option("--title", default=TITLE, show_default=True, help="Heading of the report.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON too.")
def report(bundles: tuple[Path, ...], output: Path, title: str, as_json: bool) -> None:
    """Compare what was compiled: sizes, layers and latencies of BUNDLES, the original's first.

    Writes report.md to read, report.json for programs, and plots. Each variant is called by the name of its bundle. A
    latency says whether it was measured on a board, estimated, or measured on this host; the three are never mixed.

    \b
    Example:
      edgelung report float16.bundle ptq.bundle pruned-qat.bundle --output report
    """
    try:
        from edgelung.converters.report import REPORT_NAME, Report, rows_of_manifest, write_report
    except ModuleNotFoundError as error:
        raise InputError(
            f"the package {error.name} is not installed", hint='pip install "edgelung[convert]" on the host'
        ) from None
    from edgelung.bundle import open_bundle

    rows: list[ReportRow] = []
    for path in bundles:
        with open_bundle(path) as bundle:
            try:
                rows += rows_of_manifest(path.stem, bundle.manifest, bundle.sha256)
            except ValueError as error:
                raise InputError(str(error), source=path, hint="give the bundle another name") from None
    try:
        made = Report(title, tuple(rows))
    except ValueError as error:
        raise InputError(str(error), hint="give each bundle once, with a name of its own") from None
    write_report(output, made)
    if as_json:
        click.echo(json.dumps(json.loads((output / REPORT_NAME).read_text()), indent=2))
    else:
        click.echo(f"wrote {output / 'report.md'}: {len(rows)} compiled networks of {len(bundles)} bundles")
