"""``edgelung inspect``: what a bundle holds."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgelung.cli.tables import format_table


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def inspect(bundle: Path, as_json: bool) -> None:
    """Check every file of BUNDLE against its manifest and show what it holds.

    \b
    Example:  edgelung inspect unet.bundle --json
    """
    from edgelung.bundle import describe, open_bundle

    with open_bundle(bundle) as opened:
        description = describe(opened)
    if as_json:
        click.echo(json.dumps(description, indent=2))
        return
    pipeline = description["pipeline"]
    click.echo(f"bundle      {bundle} (format {description['format_version']}, all hashes match)")
    click.echo(f"pipeline    {pipeline['kind']}")
    for name, value in pipeline["thresholds"].items():
        click.echo(f"            {name} = {value:g}")
    for role, name in pipeline["networks"].items():
        network = description["networks"][name]
        shapes = " -> ".join("x".join(map(str, network[side]["tensor"]["shape"])) for side in ("input", "output"))
        click.echo(f"{role:11} {name}: {network['architecture']}, {network['parameters']:,} parameters, {shapes}")
    rows = [
        (item["network"], item["target"], item["precision"], f"{item['size'] / 1024:.1f}", item["sha256"][:12])
        for item in description["artefacts"]
    ]
    click.echo("\n" + format_table(("network", "target", "precision", "size KiB", "sha256"), rows))
    fidelity = [
        (item["network"], item["target"], row["metric"], f"{row['value']:.3g}", f"{row['limit']:.3g}", row["samples"])
        for item in description["artefacts"]
        for row in item["fidelity"]
    ]
    if fidelity:
        click.echo("\n" + format_table(("network", "target", "fidelity", "value", "limit", "samples"), fidelity))
