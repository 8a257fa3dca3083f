"""What a training leaves on the disk, whole or not at all.

``best.pt`` is a bare state_dict, for ``edgelung-convert``. ``last.ckpt`` has what is needed to go on: weights,
optimizer, schedule, gradient scaler and history, tensors and plain values only, so it too is read without unpickling.
Random numbers need no state: crops follow from seed and step, everything else from seed and epoch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgelung._codec import from_json, to_json
from edgelung.converters.training.validation import Validation
from edgelung.errors import InputError
from edgelung.runtime.png import write_whole

__all__ = ["Progress", "RunFolder"]

VERSION = 1
BEGIN_ANEW = "begin anew with --overwrite"


@dataclass(frozen=True, eq=False)
class Progress:
    """A training after some epochs.

    Attributes:
        epoch: Epochs done.
        losses: Of the steps since the last validation.
        history: All validations.
        states: State dicts of ``model``, ``optimizer``, ``schedule`` and ``precision``.
    """

    epoch: int
    losses: tuple[float, ...]
    history: tuple[Validation, ...]
    states: Mapping[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """The folder of one training.

    Attributes:
        path: Where.
        identity: What the training computes, as JSON data; another one's checkpoint is refused.
        labels: What became of the annotations, in numbers; for the report.
    """

    path: Path
    identity: Mapping[str, Any]
    labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def best(self) -> Path:
        """Weights of the best validation."""
        return self.path / "best.pt"

    @property
    def last(self) -> Path:
        """Everything after the last epoch."""
        return self.path / "last.ckpt"

    @property
    def report(self) -> Path:
        """Recipe and history."""
        return self.path / "training.json"

    @property
    def curves(self) -> Path:
        """TensorBoard's folder."""
        return self.path / "tensorboard"

    def prepare(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder.

        Raises:
            InputError: When a training is there and neither is to be gone on with nor replaced, or nothing can be
                written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            files = [self.best, self.last, self.report, *self.curves.glob("events.out.tfevents.*")]
            there = [file for file in files if file.exists()]
            if there and not resume:
                if not overwrite:
                    hint = "go on with it by --resume, or replace it by --overwrite"
                    raise InputError("holds a training already", source=self.path, hint=hint)
                for file in there:
                    file.unlink()
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror or error})", source=self.path) from None

    def save_best(self, state: Mapping[str, Tensor]) -> None:
        """Write the weights."""
        write_whole(self.best, _saved({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}))

    def save(self, progress: Progress) -> None:
        """Write the checkpoint, then the report."""
        history = to_json(progress.history)
        content = {
            "version": VERSION,
            "identity": json.dumps(self.identity, sort_keys=True),
            "epoch": progress.epoch,
            "losses": list(progress.losses),
            "history": history,
            "states": dict(progress.states),
        }
        write_whole(self.last, _saved(content))
        report = {
            "version": VERSION,
            **self.identity,
            "labels": dict(self.labels),
            "epochs_done": progress.epoch,
            "history": history,
        }
        write_whole(self.report, (json.dumps(report, indent=1) + "\n").encode("ascii"))

    def load(self) -> Progress | None:
        """The checkpoint; None when there is none yet.

        Raises:
            InputError: When it is damaged, or of another training.
        """
        if not self.last.exists():
            return None
        try:
            content = torch.load(self.last, map_location="cpu", weights_only=True)
            if content["version"] != VERSION:
                raise ValueError(f"has the version {content['version']}, not {VERSION}")
            identity = json.loads(content["identity"])
            history = from_json(_History, {"rows": content["history"]}).rows
            progress = Progress(int(content["epoch"]), tuple(content["losses"]), history, dict(content["states"]))
        except Exception as error:  # a damaged pickle can raise anything
            first = (str(error).splitlines() or [""])[0]
            problem = f"cannot be read ({type(error).__name__}: {first[:120]})"
            raise InputError(problem, source=self.last, hint=BEGIN_ANEW) from None
        self._check_identity(identity)
        return progress

    def _check_identity(self, found: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps(self.identity))
        differing = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        if differing:
            name = differing[0]
            problem = f"is of a training with {name} {found.get(name)}, not {wanted.get(name)}"
            raise InputError(problem, source=self.last, hint=f"give the same {', '.join(differing)}, or {BEGIN_ANEW}")


@dataclass(frozen=True)
class _History:
    rows: tuple[Validation, ...]


def _saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()
