"""``edgelung convert``: a checkpoint into a bundle."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from edgelung.errors import InputError


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Bundle to write: a folder or a .zip file.")
@click.option("--model", default="unet-luna", show_default=True, help="Network the checkpoint belongs to.")
@click.option("--arch", metavar="PKG.MODULE:FACTORY", help="A network of your own instead; needs --spec.")
@click.option("--spec", type=click.Path(path_type=Path), help="TOML description of a network of your own.")
@click.option("--precision", type=click.Choice(["fp32"]), default="fp32", show_default=True, help="Arithmetic.")
@click.option(
    "--plane", type=int, nargs=2, default=(512, 512), show_default=True, metavar="H W", help="Compiled slice size."
)
@click.option("--seed", default=0, show_default=True, help="Of the phantom used for verification.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def convert(
    checkpoint: Path,
    output: Path | None,
    model: str,
    arch: str | None,
    spec: Path | None,
    precision: str,
    plane: tuple[int, int],
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Convert CHECKPOINT into a bundle that runs on the board, verified against the original network.

    CHECKPOINT is a state_dict (.pt, .pth, .state, .safetensors), bare or under `model_state`, `state_dict` or
    `model`; or a ready .onnx model with --spec. Files are never unpickled.

    \b
    Examples:
      edgelung-convert unet.pt --output unet.bundle
      edgelung-convert mine.pt --arch mypackage.nets:build --spec mine.toml --output mine.bundle
      edgelung-convert mine.onnx --spec mine.toml --output mine.zip
    """
    try:
        from edgelung.converters import Recipe
        from edgelung.converters import convert as run_conversion
    except ModuleNotFoundError as error:
        raise InputError(
            f"the package {error.name} is not installed", hint='pip install "edgelung[convert]" on the host'
        ) from None
    recipe = Recipe(
        source=checkpoint,
        output=output or checkpoint.with_suffix(".bundle"),
        model=model,
        arch=arch,
        spec=spec,
        precision="fp32",
        plane=plane,
        seed=seed,
        overwrite=overwrite,
    )
    result = run_conversion(recipe, stage=lambda name: click.echo(f"... {name}", err=True))
    if as_json:
        click.echo(json.dumps({"output": str(result.output), "agreement": asdict(result.agreement)}, indent=2))
        return
    agreement = result.agreement
    click.echo(
        f"{result.output}: agrees with the original within {agreement.max_abs:.2g} "
        f"({agreement.relative_rms:.2g} of its spread) on {agreement.samples} phantom slabs"
    )
