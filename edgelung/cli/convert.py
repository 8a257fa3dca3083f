"""``edgelung convert``: a checkpoint into a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgelung.cli.option_groups import GroupedCommand, group
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


_network = group("The network")
_board = group("Where it is to run, and in what arithmetic")
_cut = group("Pruning")
_training = group("Training of a pruned or --qat network")
_ct = group("CTs to fit to and to verify on")
_result = group("The result")


@click.command(cls=GroupedCommand, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("checkpoint", type=click.Path(path_type=Path))
@_network("--model", default="unet-luna", show_default=True, help="Network the checkpoint belongs to.")
@_network("--arch", metavar="PKG.MODULE:FACTORY", help="A network of your own instead; needs --spec.")
@_network(
    "--weights", metavar="NAME",
    help="Which weights, where CHECKPOINT holds several: `state_dict_ema`, say; docs/own-network.md.",
)  # fmt: skip
@_network("--spec", type=click.Path(path_type=Path), help="TOML description of a network of your own.")
@_network(
    "--output-key", default="", metavar="KEY", help="Which map of a network that gives several; KEY.KEY where nested."
)
@_network(
    "--plane", type=int, nargs=2, default=(512, 512), show_default=True, metavar="H W", help="Compiled slice size."
)
@_network("--no-restructure", is_flag=True, help="Keep the network as it came: BatchNorms, sigmoid and all.")
@_board(
    "--target", "targets", multiple=True, default=("onnxruntime",), show_default=True,
    help="onnxruntime, rk3588, rk3588s. May be given several times.",
)  # fmt: skip
@_board("--precision", type=click.Choice(["fp32", "fp16"]), help="Floating point of this width.")
@_board(
    "--ptq", is_flag=False, flag_value="normal", type=click.Choice(["normal", "kl_divergence", "mmse", "hybrid"]),
    help="int8 by post-training quantisation, `normal` when no algorithm is named. What an NPU target gets by default.",
)  # fmt: skip
@_board("--qat", is_flag=True, help="int8 by quantisation-aware training (docs/qat.md).")
@_board("--toolkit", metavar="VERSION", help="rknn-toolkit2 to compile with; see `edgelung toolkit list`.")
@_cut("--prune", type=float, metavar="R", help="Share of the channels that goes, 0 to 1; 0.5 halves every layer.")
@_cut(
    "--round-to", type=click.IntRange(1), metavar="N",
    help="Channels that stay are a multiple of N.  [default: what the NPU moves at once, 16 in int8, 8 in fp16]",
)  # fmt: skip
@_cut(
    "--importance", default="l1", show_default=True, metavar="NAME",
    help="What channels are ranked by: l1, l2, bn_scale, lamp, fpgm or variance.",
)  # fmt: skip
@_cut(
    "--scope", type=click.Choice(["layer", "global"]), default="layer", show_default=True,
    help="Take the share from each layer, or from all together where channels matter least.",
)  # fmt: skip
@_cut("--keep", multiple=True, metavar="NAME", help="A layer or module not to prune. May be given several times.")
@_cut(
    "--scan",
    is_flag=True,
    help="First prune each layer alone, by R/2 and R, and show which bear it.",
)
@_training(
    "--preset", type=click.Choice(["quick", "published", "thorough"]), default="published", show_default=True,
    help="How long to train (docs/convert.md).",
)  # fmt: skip
@_training("--epochs", type=click.IntRange(1), metavar="N", help="As many epochs instead of the preset's.")
@_ct("--data", type=click.Path(path_type=Path), help="A series, a folder of series, or LUNA16; phantoms if not given.")
@_ct("--holdout", metavar="LOW:HIGH", callback=_slices, help="Slices of the one series to verify on only.")
@_ct("--calibration-slabs", default=12, show_default=True, type=click.IntRange(1), help="Stacks of slices to fit to.")
@_ct("--verification-slabs", default=8, show_default=True, type=click.IntRange(1), help="Stacks to verify on.")
@_ct("--seed", default=0, show_default=True, help="Of everything that is drawn.")
@_result("--output", type=click.Path(path_type=Path), help="Bundle to write: a folder or a .zip file.")
@_result("--recipe", "recipe_file", type=click.Path(path_type=Path), help="Options from a TOML file; those here win.")
@_result("--resume", is_flag=True, help="Go on where an interrupted conversion to the same output stopped.")
@_result("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@_result("--keep-failing", is_flag=True, help="Write the bundle even if verification fails, and mark it.")
@_result("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def convert(
    context: click.Context,
    /,
    checkpoint: Path,
    output: Path | None,
    recipe_file: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert CHECKPOINT into a bundle that runs on the board, verified against the original network.

    CHECKPOINT is a state_dict (.pt, .pth, .state, .safetensors), bare or within a dict, of several the one that
    --weights names; a bundle that was made with --prune or --qat; or a ready .onnx model with --spec. No file is
    unpickled.

    A conversion takes one route: --precision fp32 (any CPU), --precision fp16 (NPU), --ptq or --qat (int8, both). Every
    bundle also holds an artefact for onnxruntime, so that it runs anywhere. With --prune the network is made smaller
    first, and then trained until it has recovered.

    Ranges are fitted to slices of --data, and networks trained on them; a block of slices given by --holdout is kept
    out of that, and everything is verified on it. Without --data phantoms stand in.

    \b
    Examples:
      edgelung-convert unet.pt --output unet.bundle
      edgelung-convert unet.pt --target rk3588s --data scans/ --output unet.bundle
      edgelung-convert unet.pt --target rk3588s --ptq mmse --data scan.mhd --holdout 40:60
      edgelung-convert unet.pt --target rk3588s --prune 0.5 --qat --data scan.mhd --holdout 40:60
      edgelung-convert mine.pt --arch mypackage.nets:build --spec mine.toml --output mine.bundle
      edgelung-convert mine.onnx --spec mine.toml --output mine.zip

    \b
    The options are kept in the bundle, and give the same network again:
      edgelung inspect unet.bundle --recipe > unet.toml
      edgelung-convert unet.pt --recipe unet.toml --data scan.mhd --output again.bundle
    """
    try:
        from edgelung.converters import Recipe
        from edgelung.converters import convert as run_conversion
        from edgelung.converters.recipe_file import read_recipe
    except ModuleNotFoundError as error:
        raise InputError(
            f"the package {error.name} is not installed", hint='pip install "edgelung[convert]" on the host'
        ) from None
    given = {name: value for name, value in options.items() if _is_given(context, name)}
    if "no_restructure" in given:
        given["restructure"] = not given.pop("no_restructure")
    given |= {"source": checkpoint, "output": output or checkpoint.with_suffix(".bundle")}
    recipe = Recipe(**given) if recipe_file is None else read_recipe(recipe_file, **given)
    with status_line() as status:
        result = run_conversion(recipe, stage=status.stage, note=status.note, tick=status.tick)
    if as_json:
        click.echo(json.dumps(_report(result), indent=2))
    else:
        _print(result)


def _is_given(context: click.Context, name: str) -> bool:
    """Whether an option was typed; the defaults that help shows are those of Recipe."""
    return context.get_parameter_source(name) is not ParameterSource.DEFAULT


def _report(result: Conversion) -> dict[str, Any]:
    from edgelung._codec import to_json
    from edgelung.bundle import describe, open_bundle

    layers = [{**to_json(cut), "saves": {dtype: cut.verdict(dtype) for dtype in cut.costs}} for cut in result.layers]
    with open_bundle(result.output) as bundle:
        return {
            "output": str(result.output), "layers": layers, "scan": to_json(result.scan), **describe(bundle)
        }  # fmt: skip


def _print(result: Conversion) -> None:
    if result.scan:
        from edgelung.converters.pruning import scan_rows

        click.echo(format_table(*scan_rows(result.scan)) + "\n")
    if result.layers:
        from edgelung.converters.pruning import layer_rows

        precision = "INT8" if result.artefacts[-1].precision == "int8" else "FLOAT16"
        header, cuts = layer_rows(result.layers, precision)
        click.echo(format_table(header, cuts) + "\n")
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
            row.against,
            row.metric,
            f"{row.value:.4g}",
            "" if row.limit is None else f"{row.bound} {row.limit:.4g}",
            "" if row.kept else "MISSED",
        )
        for artefact in result.artefacts
        for row in artefact.fidelity
    ]
    click.echo(format_table(("target", "against", "what", "value", "limit", ""), fidelity))
    first = result.artefacts[0].fidelity[0]
    failed = sum(not artefact.verified for artefact in result.artefacts)
    verdict = f"{failed} artefacts MISSED a limit and were kept" if failed else "all limits kept"
    click.echo(f"\n{result.output}: {verdict}, on {first.samples} {first.data}")
