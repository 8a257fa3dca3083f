"""``edgelung train``: from a LUNA16 folder to a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelung.cli.progress import status_line
from edgelung.cli.tables import format_table
from edgelung.errors import InputError

if TYPE_CHECKING:
    from edgelung.converters.training import TrainResult


@click.command()
@click.argument("network", metavar="NETWORK")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="LUNA16 root, or a phantom in its layout.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder for weights and curves.")
@click.option("--epochs", default=10, show_default=True, type=click.IntRange(1), help="How long to train.")
@click.option("--steps-per-epoch", default=250, show_default=True, type=click.IntRange(1), help="Batches an epoch.")
@click.option("--batch", default=32, show_default=True, type=click.IntRange(1), help="Crops of a batch, all devices.")
@click.option(
    "--crop", default=96, show_default=True, type=click.IntRange(1), help="A crop lies within so many pixels."
)
@click.option("--inner", default=64, show_default=True, type=click.IntRange(1), help="Pixels of a crop.")
@click.option(
    "--positives", default=0.5, show_default=True, type=click.FloatRange(0, 1, min_open=True),
    help="Share of crops around nodules.",
)  # fmt: skip
@click.option(
    "--learning-rate", default=3e-3, show_default=True, type=click.FloatRange(0, min_open=True), help="Its peak."
)
@click.option(
    "--recall-weight", default=8.0, show_default=True, type=click.FloatRange(0),
    help="Of missed nodule pixels. Lower it to punish false positives more.",
)  # fmt: skip
@click.option(
    "--validate-every", default=1, show_default=True, type=click.IntRange(1), help="Epochs, then a validation."
)
@click.option(
    "--patience", default=0, show_default=True, type=click.IntRange(0),
    help="Stop after so many validations without a better F1; 0 never does.",
)  # fmt: skip
@click.option("--cache", type=click.Path(path_type=Path), help="Folder for labelled scans. [default: in OUTPUT]")
@click.option(
    "--accelerator", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    help="What to compute on.",
)  # fmt: skip
@click.option("--devices", default=1, show_default=True, type=click.IntRange(1), help="How many; a process for each.")
@click.option(
    "--precision", default="32-true", show_default=True, type=click.Choice(["32-true", "16-mixed", "bf16-mixed"]),
    help="32-bit, or mixed with 16 bits.",
)  # fmt: skip
@click.option(
    "--workers", default=0, show_default=True, type=click.IntRange(0),
    help="Extra processes per device that prepare crops; a GPU needs some.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of first weights and of crops.")
@click.option("--resume", is_flag=True, help="Go on where an earlier run of the same command was interrupted.")
@click.option("--overwrite", is_flag=True, help="Replace a training that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(network: str, as_json: bool, **options: Any) -> None:
    """Train NETWORK (unet-luna) from zero on a LUNA16 folder, real or a phantom.

    LUNA16 has centres and diameters, no masks: masks are grown from them to below -700 HU. About one scan in eleven
    is kept out of the training and validated on, as whole slices; which ones, their names alone decide.

    OUTPUT gets best.pt (weights of the validation with the highest F1, for edgelung-convert), last.ckpt (written after
    every epoch, for --resume), training.json (recipe and all validations) and tensorboard/ (curves, and slices with
    hit, missed and invented pixels).

    The loss is dice(p, y) + w * dice(p * y, y) with w = --recall-weight: at the published 8, missing a nodule's pixel
    costs more than marking one by mistake. When precision stays low, lower it first.

    \b
    Examples:
      edgelung phantom phantoms --scans 16 --shape 48 512 512 --seed 1
      edgelung train unet-luna --data phantoms --output run
      edgelung train unet-luna --data luna16 --output run --devices 2 --precision bf16-mixed --workers 8 --patience 5
      tensorboard --logdir run/tensorboard
      edgelung-convert run/best.pt --target rk3588s --data luna16 --output unet.bundle
    """
    try:
        from edgelung.converters.training import TrainRecipe
        from edgelung.converters.training import train as run_training
    except ModuleNotFoundError as error:
        raise InputError(
            f"the package {error.name} is not installed", hint='pip install "edgelung[convert]" on the host'
        ) from None
    recipe = TrainRecipe(model=network, **options)
    with status_line() as status:
        result = run_training(recipe, stage=status.stage, note=status.note, tick=status.tick)
    if as_json:
        click.echo(json.dumps(_report(result), indent=2))
    else:
        _print(result)


def _rows(result: TrainResult) -> list[dict[str, Any]]:
    kinds = (("grown", result.best.grown), ("exact", result.best.exact))
    return [
        {
            "masks": kind,
            "recall": counts.recall,
            "precision": counts.precision,
            "f1": counts.f1,
            **{f"{name}_percent": share for name, share in counts.percentages().items()},
        }
        for kind, counts in kinds
        if counts is not None
    ]


def _report(result: TrainResult) -> dict[str, Any]:
    return {
        "checkpoint": str(result.checkpoint),
        "epochs": result.epochs,
        "best_step": result.best.step,
        "training_scans": result.training_scans,
        "validation_scans": result.validation_scans,
        "validation": _rows(result),
    }


def _print(result: TrainResult) -> None:
    rows = [
        (row["masks"], *(f"{row[name]:.3f}" for name in ("recall", "precision", "f1")),
         *(f"{row[name]:.1f}" for name in ("tp_percent", "fn_percent", "fp_percent")))
        for row in _rows(result)
    ]  # fmt: skip
    header = ("masks", "recall", "precision", "F1", "tp %", "fn %", "fp %")
    click.echo(format_table(header, rows) + "\n")
    click.echo(
        f"{result.checkpoint}: step {result.best.step}, best of {len(result.history)} validations on "
        f"{result.validation_scans} scans that were not trained on"
    )
    click.echo(f"look at the curves with: tensorboard --logdir {result.folder / 'tensorboard'}")
