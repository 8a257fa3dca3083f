"""``edgelung run``: one series through one bundle."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgelung.cli.progress import progress_bar
from edgelung.cli.tables import format_table

SHOWN_FINDINGS = 20


@click.command()
@click.argument("series", type=click.Path(path_type=Path))
@click.option("--bundle", required=True, type=click.Path(path_type=Path), help="Bundle folder or .zip file.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder for findings and overlays.")
@click.option("--backend", default="auto", show_default=True, help="Inference engine.")
@click.option("--threads", default=0, help="CPU threads of one run; 0 leaves it to the engine.")
@click.option(
    "--spacing-mm", type=float, nargs=3, default=None, metavar="D H W", help="Voxel spacing of a .npy file, in mm."
)
@click.option("--series-id", default=None, help="Name of the series in findings.csv; see below.")
@click.option(
    "--allow-implausible", is_flag=True, help="Take numbers that do not look like Hounsfield units as they are."
)
@click.option("--overwrite", is_flag=True, help="Replace the findings in the output folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the content of findings.json.")
def run(
    series: Path,
    bundle: Path,
    output: Path,
    backend: str,
    threads: int,
    spacing_mm: tuple[float, float, float] | None,
    series_id: str | None,
    allow_implausible: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Find nodules in SERIES: a .mhd, .mha, .nii, .nii.gz, .npz or .npy file, or a folder of DICOM slices.

    Writes findings.json, findings.csv (LUNA16 submission format, LPS millimetres) and overlay pictures. An empty list
    of findings means that every slice was searched and nothing found; a failure is an error and a non-zero exit code,
    and leaves no findings.

    findings.csv needs a name for the series. A LUNA16 or phantom file gives its own; every other series is named
    after a hash of its voxels, because file names and DICOM identifiers may point to a patient. --series-id decides.

    A series whose numbers cannot be Hounsfield units (none is air, a mask, a window of 8 bits) is refused before
    anything runs, because a network finds nothing in it. --allow-implausible is for a CT that this is wrong about,
    such as a crop without any air, and for nothing else; findings.json then says what spoke against it.

    \b
    Example:  edgelung run scan.mhd --bundle unet.bundle --output out
    """
    from edgelung.runtime import CTPipeline, prepare_output

    prepare_output(output, overwrite=overwrite)
    with CTPipeline.load(bundle, backend, threads=threads) as pipeline, progress_bar("slices") as progress:
        result = pipeline(series, spacing_mm=spacing_mm, progress=progress, allow_implausible=allow_implausible)
    if result.implausible:
        click.echo(f"warning: taken as it is by --allow-implausible: {result.implausible}", err=True)
    report = result.save(output, series=series, series_id=series_id)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    rows = [
        (
            finding.id,
            *(f"{value:.1f}" for value in finding.center_lps_mm),
            f"{finding.diameter_mm:.1f}",
            f"{finding.longest_axial_mm:.1f}",
            f"{finding.confidence:.3f}",
        )
        for finding in result.findings[:SHOWN_FINDINGS]
    ]
    if rows:
        header = ("finding", "left mm", "posterior mm", "superior mm", "diameter mm", "longest mm", "confidence")
        click.echo(format_table(header, rows))
    count = len(result.findings)
    if count > len(rows):
        click.echo(f"... and {count - len(rows)} more in {output / 'findings.csv'}")
    click.echo(f"{count} finding{'s' * (count != 1)} in {result.volume.shape[0]} slices; see {output}")
    times = [(name, time.calls, f"{time.total_ms:.0f}", f"{time.median_ms:.2f}") for name, time in result.times.items()]
    click.echo("\n" + format_table(("stage", "calls", "total ms", "median ms"), times))
