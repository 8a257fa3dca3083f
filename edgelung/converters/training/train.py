"""From a LUNA16 folder to a trained network: the one library call behind ``edgelung train``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lightning_fabric import Fabric
from torch.multiprocessing.spawn import ProcessRaisedException

from edgelung.converters.datasets import (
    LabelCounts,
    LunaScan,
    cache_scan,
    is_complete,
    open_cached_scan,
    read_luna16,
    split_scans,
)
from edgelung.converters.training.checkpoints import RunFolder
from edgelung.converters.training.fit import Job, fit
from edgelung.converters.training.recipe import TrainRecipe
from edgelung.converters.training.validation import Validation
from edgelung.errors import ConversionError, InputError

__all__ = ["TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """What a training made.

    Attributes:
        checkpoint: Weights of the best validation, a bare state_dict.
        folder: Where it lies, with last.ckpt, training.json and the curves.
        epochs: Done, earlier runs that were resumed included.
        history: All validations.
        training_scans: Scans trained on.
        validation_scans: Scans validated on.
    """

    checkpoint: Path
    folder: Path
    epochs: int
    history: tuple[Validation, ...]
    training_scans: int
    validation_scans: int

    @property
    def best(self) -> Validation:
        """The validation that the checkpoint is of: the highest F1 against grown masks."""
        return max(self.history, key=lambda row: row.grown.f1)


def train(
    recipe: TrainRecipe,
    *,
    stage: Callable[[str], None] | None = None,
    note: Callable[[str], None] | None = None,
    tick: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train from zero, or go on where an earlier call was interrupted.

    With several devices the training runs in processes of their own: a script that calls this needs the usual
    ``if __name__ == "__main__":``, and ``note`` and ``tick`` must be picklable.

    Args:
        recipe: What to do.
        stage: Called with the name of each step when it begins.
        note: Called with what a user should know.
        tick: Called with what goes on within a long step, many times a second.

    Raises:
        InputError: For data, a folder, a checkpoint or a device that cannot be used.
        ConversionError: When the training fails.
    """
    announce, remark, draw = stage or _ignore, note or _ignore, tick or _ignore
    announce("read the data set")
    scans = read_luna16(recipe.data, note=remark)
    sides = split_scans(scans)
    fabric = _make_fabric(recipe)
    folder = RunFolder(recipe.output, {**recipe.decisions(), "data": _fingerprint(scans)})
    folder.prepare(resume=recipe.resume, overwrite=recipe.overwrite)
    if recipe.resume and not folder.last.exists():
        remark("there is no last.ckpt yet: begins with the first epoch")
    announce(f"label {len(scans)} scans")
    cache = recipe.cache or recipe.output / "cache"
    (training, validation), counts = _label(sides, cache, recipe, draw)
    for line in counts.notes():
        remark(line)
    folder = replace(folder, labels=counts.to_json())
    announce(f"train on {len(training)} scans, validate on {len(validation)}")
    _launch(fabric, Job(recipe, folder, training, validation, remark, draw))
    progress = folder.load()
    if progress is None:
        raise InputError("was removed while the training ran", source=folder.last)
    return TrainResult(folder.best, folder.path, progress.epoch, progress.history, len(training), len(validation))


def _ignore(text: str) -> None:
    """Nobody listens."""


def _label(
    sides: Sequence[Sequence[LunaScan]], cache: Path, recipe: TrainRecipe, tick: Callable[[str], None]
) -> tuple[list[tuple[Path, ...]], LabelCounts]:
    """The cache entries of each side, without scans of which a nodule has no voxel; and what became of the labels."""
    scans = [scan for side in sides for scan in side]
    nodules, counts, number = sum(len(scan.nodules) for scan in scans), LabelCounts(), 0
    labelled: list[tuple[Path, ...]] = []
    for side, name in zip(sides, ("train", "validate"), strict=True):
        entries = []
        for scan in side:
            number += 1
            tick(f"scan {number} of {len(scans)}")
            entry = cache_scan(scan, cache, seed=recipe.seed)
            content = open_cached_scan(entry)
            counts = counts.with_scan(scan, content)
            counts.check(recipe.data, nodules)
            if is_complete(content):
                entries.append(entry)
        if not entries:
            raise counts.refusal(recipe.data, consequence=f"no scan is left to {name} on")
        labelled.append(tuple(entries))
    return labelled, counts


def _fingerprint(scans: Sequence[LunaScan]) -> str:
    """Which scans there are and what is annotated in them, wherever they lie; tells nothing of either."""
    what = [  # not the lines of the list: in another order it is the same
        (scan.uid, [{"center_lps_mm": item.center_lps_mm, "diameter_mm": item.diameter_mm} for item in scan.nodules])
        for scan in scans
    ]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _make_fabric(recipe: TrainRecipe) -> Fabric:
    try:
        # Spawned processes begin clean, whatever the caller has loaded, and need no command line to be run again.
        return Fabric(
            accelerator=recipe.accelerator,
            devices=recipe.devices,
            strategy="ddp_spawn" if recipe.devices > 1 else "auto",
            precision=recipe.precision,
        )
    except (RuntimeError, ValueError) as error:  # lightning's MisconfigurationException is a RuntimeError or Exception
        hint = "choose --accelerator cpu, or as many --devices as there are"
        raise InputError(" ".join(str(error).split())[:200], field="accelerator", hint=hint) from None


def _launch(fabric: Fabric, job: Job) -> None:
    try:
        fabric.launch(partial(fit, job=job))  # bound: launch() refuses frozen dataclasses among its own arguments
    except ProcessRaisedException as error:
        # Only the text of an error comes back from a process.
        own = re.search(r"^edgelung\.errors\.\w+: (.+)$", str(error), re.MULTILINE)
        if own is None:
            raise
        raise ConversionError("training", own[1].removeprefix("training: ")) from None
