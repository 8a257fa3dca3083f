"""``edgelung inspect``: what a bundle holds."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgelung.cli.tables import format_table
from edgelung.errors import InputError


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--recipe", "only_recipe", is_flag=True, help="Print the recipe it was made from, as TOML.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def inspect(bundle: Path, only_recipe: bool, as_json: bool) -> None:
    """Check every file of BUNDLE against its manifest and show what it holds.

    \b
    Examples:  edgelung inspect unet.bundle --json
               edgelung inspect unet.bundle --recipe > unet.toml
               edgelung-convert unet.pt --recipe unet.toml
    """
    from edgelung.bundle import describe, open_bundle

    with open_bundle(bundle) as opened:
        description = describe(opened)
    recipe = description["provenance"].get("recipe")
    if only_recipe:
        if as_json:
            raise click.UsageError("--recipe prints TOML; with --json it is under provenance.recipe, without --recipe")
        if recipe is None:
            raise InputError("holds no recipe", source=bundle, hint="make it again with edgelung-convert")
        click.echo(recipe, nl=False)
        return
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
    artefacts = [
        (
            item["network"],
            item["target"],
            item["precision"],
            f"{item['weight_memory_kib']:.1f}",
            f"{item['model_size_kib']:.1f}",
            _layers(item["layers"]),
            f"{item['latency']['us'] / 1e3:.1f} ({item['latency']['source']})",
            item["sha256"][:12],
        )
        for item in description["artefacts"]
    ]
    header = ("network", "target", "precision", "weights KiB", "file KiB", "layers", "ms per slice", "sha256")
    click.echo("\n" + format_table(header, artefacts))
    fidelity = [
        (
            item["network"],
            item["target"],
            row["metric"],
            f"{row['value']:.3g}",
            f"{row['bound']} {row['limit']:.3g}" if "limit" in row else "",
            f"{row['samples']} {row['data']}",
        )
        for item in description["artefacts"]
        for row in item["fidelity"]
    ]
    if fidelity:
        click.echo("\n" + format_table(("network", "target", "against the original", "value", "limit", "on"), fidelity))
    for processor in sorted({item["processor"] for item in description["artefacts"] if item.get("processor")}):
        click.echo(f"\nverified on {processor}")
    if recipe is not None:
        click.echo("\nrecipe" + "".join(f"\n    {line}" for line in recipe.splitlines()))
    for item in description["artefacts"]:
        if not item["verified"]:
            click.echo(f"\nWARNING: {item['network']} for {item['target']} MISSED a limit and was kept on request")


def _layers(counts: dict[str, int]) -> str:
    """`27 on the NPU, 0 float16`, say."""
    where = f"{counts['npu']} NPU, {counts['cpu']} CPU" if counts["npu"] else f"{counts['total']} CPU"
    float16 = f", {counts['float16']} float16" if counts["float16"] else ""
    return f"{where}{float16}, {counts['convert']} convert" if counts["convert"] else f"{where}{float16}"
