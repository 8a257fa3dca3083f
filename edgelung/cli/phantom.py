"""``edgelung phantom``: a synthetic data set in LUNA16's layout."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgelung.cli.progress import progress_bar
from edgelung.errors import InputError


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--scans", default=10, show_default=True, type=click.IntRange(min=1), help="How many CTs.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Equal seeds give equal CTs.")
@click.option(
    "--shape", nargs=3, type=click.IntRange(min=1), default=(200, 512, 512), show_default=True, metavar="D H W",
    help="Voxels of each CT.",
)  # fmt: skip
@click.option(
    "--spacing-mm", nargs=3, type=click.FloatRange(min=0, min_open=True), default=(1.25, 0.7, 0.7), show_default=True,
    metavar="D H W", help="Voxel spacing in mm.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the data set in OUT by this one.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def phantom(
    out: Path,
    scans: int,
    seed: int,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make a data set of chest-CT phantoms with lung nodules in the folder OUT.

    No patient is in it: anatomy, vessels, nodules and noise come from the seed. OUT gets LUNA16's layout (subset0 to
    subset9 with .mhd files, annotations.csv, candidates.csv, seriesuids.csv), so that whatever trains on LUNA16 trains
    on it, and beyond LUNA16 the exact nodule masks (masks/) and pictures to look at (pictures/).

    An interrupted run goes on where it stopped when the same command is given again. A full-sized CT takes about ten
    seconds and 105 MB; --shape with fewer slices makes slabs through the middle of the chest.

    \b
    Examples:  edgelung phantom data/phantom --scans 20 --seed 1
               edgelung phantom slabs --scans 4 --shape 16 512 512
    """
    try:
        from edgelung.calibration import write_luna16
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "scipy":
            raise
        raise InputError("the phantom needs scipy", hint='pip install "edgelung[convert]"') from error

    with progress_bar("scans") as progress:
        summary = write_luna16(
            out, scans=scans, seed=seed, shape=shape, spacing_mm=spacing_mm, progress=progress, overwrite=overwrite
        )
    if as_json:
        click.echo(json.dumps(summary.as_dict(), indent=2))
        return
    click.echo(
        f"{summary.scans} scans ({summary.kept} kept from before) with {summary.nodules} nodules and "
        f"{summary.false_candidates} false candidates in {out}"
    )
    click.echo(f"look at {out / 'pictures'}; train on {out} as on LUNA16, with the masks in {out / 'masks'}")
