"""``edgelung convert``: a checkpoint into a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelung.cli.progress import status_line
from edgelung.cli.tables import format_table
from edgelung.errors import InputError

if TYPE_CHECKING:
    from edgelung.converters import Conversion


def _slices(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    low, _, high = value.partition(":")
    if not (low.isascii() and low.isdigit() and high.isascii() and high.isdigit()):
        raise click.BadParameter("give LOW:HIGH, two slice numbers, HIGH not included", context, parameter)
    return int(low), int(high)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Bundle to write: a folder or a .zip file.")
@click.option("--model", default="unet-luna", show_default=True, help="Network the checkpoint belongs to.")
@click.option("--arch", metavar="PKG.MODULE:FACTORY", help="A network of your own instead; needs --spec.")
@click.option("--spec", type=click.Path(path_type=Path), help="TOML description of a network of your own.")
@click.option(
    "--target", "targets", multiple=True, default=("onnxruntime",), show_default=True,
    help="Where it is to run: onnxruntime, rk3588, rk3588s. May be given several times.",
)  # fmt: skip
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), help="Floating point of this width.")
@click.option(
    "--ptq", is_flag=False, flag_value="normal", type=click.Choice(["normal", "kl_divergence", "mmse", "hybrid"]),
    help="Post-training quantisation to int8; `normal` when no algorithm is named. What an NPU target gets by default.",
)  # fmt: skip
@click.option("--no-restructure", is_flag=True, help="Keep the network as it came: BatchNorms, sigmoid and all.")
@click.option("--data", type=click.Path(path_type=Path), help="CTs to quantise with: a series, a folder, or LUNA16.")
@click.option("--holdout", metavar="LOW:HIGH", callback=_slices, help="Slices of the one series to verify on only.")
@click.option(
    "--calibration-slabs", default=12, show_default=True, type=click.IntRange(1), help="Stacks of slices to fit to."
)
@click.option(
    "--verification-slabs", default=8, show_default=True, type=click.IntRange(1), help="Stacks of slices to verify on."
)
@click.option("--toolkit", metavar="VERSION", help="rknn-toolkit2 to compile with; see `edgelung toolkit list`.")
@click.option(
    "--plane", type=int, nargs=2, default=(512, 512), show_default=True, metavar="H W", help="Compiled slice size."
)
@click.option("--seed", default=0, show_default=True, help="Of phantoms and of the choice of slices.")
@click.option("--keep-failing", is_flag=True, help="Write the bundle even if verification fails, and mark it.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def convert(checkpoint: Path, output: Path | None, no_restructure: bool, as_json: bool, **options: Any) -> None:
    """Convert CHECKPOINT into a bundle that runs on the board, verified against the original network.

    CHECKPOINT is a state_dict (.pt, .pth, .state, .safetensors), bare or under `model_state`, `state_dict` or
    `model`; or a ready .onnx model with --spec. Files are never unpickled.

    A conversion takes one route: --precision fp32 (any CPU), --precision fp16 (NPU) or --ptq (int8, both). Every bundle
    also holds an artefact for onnxruntime, so that it runs anywhere. Ranges for int8 are fitted to slices of --data; a
    block of slices given by --holdout is kept out of that, and everything is verified on it.

    \b
    Examples:
      edgelung-convert unet.pt --output unet.bundle
      edgelung-convert unet.pt --target rk3588s --data scans/ --output unet.bundle
      edgelung-convert unet.pt --target rk3588s --ptq mmse --data scan.mhd --holdout 40:60
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
        restructure=not no_restructure,
        **options,
    )
    with status_line() as status:
        result = run_conversion(recipe, stage=status.stage, note=status.note, tick=status.tick)
    if as_json:
        click.echo(json.dumps(_report(result), indent=2))
    else:
        _print(result)


def _report(result: Conversion) -> dict[str, Any]:
    from edgelung.bundle import describe, open_bundle

    with open_bundle(result.output) as bundle:
        return {"output": str(result.output), **describe(bundle)}


def _print(result: Conversion) -> None:
    rows = [
        (
            artefact.target,
            artefact.precision,
            f"{artefact.weight_memory_kib:.1f}",
            f"{artefact.model_size_kib:.1f}",
            f"{artefact.latency.us / 1e3:.1f} ({artefact.latency.source})",
        )
        for artefact in result.artefacts
    ]
    click.echo(format_table(("target", "precision", "weights KiB", "file KiB", "ms per slice"), rows) + "\n")
    fidelity = [
        (
            artefact.target,
            row.metric,
            f"{row.value:.4g}",
            "" if row.limit is None else f"{row.bound} {row.limit:.4g}",
            "" if row.kept else "MISSED",
        )
        for artefact in result.artefacts
        for row in artefact.fidelity
    ]
    click.echo(format_table(("target", "against the original", "value", "limit", ""), fidelity))
    first = result.artefacts[0].fidelity[0]
    failed = sum(not artefact.verified for artefact in result.artefacts)
    verdict = f"{failed} artefacts MISSED a limit and were kept" if failed else "all limits kept"
    click.echo(f"\n{result.output}: {verdict}, on {first.samples} {first.data}")
