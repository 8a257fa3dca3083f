"""What a user asks a conversion for, checked before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edgelung.boards import get_board
from edgelung.converters.pruning import IMPORTANCES
from edgelung.converters.route import CHANNEL_BLOCK, Algorithm, Preset, Route, Scope
from edgelung.errors import InputError

__all__ = ["HOST", "Recipe"]

HOST: Final = "onnxruntime"
_ROUNDS_QAT_WEIGHTS_ANEW: Final = "2.5.0"  # docs/qat.md, "Toolkit 2.5.0"


@dataclass(frozen=True)
class Recipe:
    """What to convert and how.

    Attributes:
        source: A checkpoint, a bundle that was made with ``prune`` or ``qat``, or a ready ``.onnx`` model.
        output: The bundle to write: a folder, or a file ending in ``.zip``.
        model: Registry name of the network.
        arch: ``package.module:factory`` of a network of one's own, instead of ``model``.
        weights: Which weights of a checkpoint that holds several; None takes the only ones (docs/own-network.md).
        spec: TOML file that describes it; needed for ``arch`` and for a ready model.
        output_key: Which map of a network that gives several; a key, an index or a name, dotted where they are nested;
            empty for one that gives one.
        targets: Boards to compile for, by name; ``onnxruntime`` is any CPU.
        precision: Floating point of this width; excludes ``ptq``.
        ptq: Post-training quantisation to int8 by this algorithm; excludes ``precision``.
        restructure: Fold BatchNorms and split the final sigmoid off first, where an NPU or int8 gains by it.
        data: A series, a folder of series or a LUNA16 root to calibrate and verify on; None takes the phantom.
        holdout: (low, high) slices of the axial volume, half-open, that nothing is fitted to and all is verified on.
        calibration_slabs: How many stacks of slices ranges are fitted to.
        verification_slabs: How many stacks of slices every artefact is compared with the original on.
        toolkit: Version of the vendor's toolkit; None takes the default one.
        plane: (height, width) of a registry network's compiled input; a spec file has its own.
        seed: Of everything that is drawn.
        prune: Share of the channels that goes, 0 to 1 exclusive; None prunes nothing.
        round_to: The channels that stay are a multiple of this; None takes the block of the route (docs/pruning.md).
        importance: What channels are ranked by: a name in ``edgelung.converters.pruning.IMPORTANCES``.
        scope: Take the share from each layer, or from all together where channels matter least.
        keep: Layers, or modules with layers in them, that are not pruned.
        scan: Prune each group of channels alone first, and tell what that changes (docs/pruning.md).
        qat: Train the network to be int8; excludes ``ptq`` and ``precision``.
        preset: How long a pruned or int8 network is trained (docs/convert.md).
        epochs: As many epochs instead of the preset's.
        resume: Go on where an interrupted conversion to the same output stopped.
        overwrite: Replace a bundle that is there.
        keep_failing: Write the bundle even if an artefact misses a limit, and mark it.

    Raises:
        InputError: If parts contradict each other.
    """

    source: Path
    output: Path
    model: str = "unet-luna"
    arch: str | None = None
    weights: str | None = None
    spec: Path | None = None
    output_key: str = ""
    targets: tuple[str, ...] = (HOST,)
    precision: Literal["fp32", "fp16"] | None = None
    ptq: Algorithm | None = None
    restructure: bool = True
    data: Path | None = None
    holdout: tuple[int, int] | None = None
    calibration_slabs: int = 12
    verification_slabs: int = 8
    toolkit: str | None = None
    plane: tuple[int, int] = (512, 512)
    seed: int = 0
    prune: float | None = None
    round_to: int | None = None
    importance: str = "l1"
    scope: Scope = "layer"
    keep: tuple[str, ...] = ()
    scan: bool = False
    qat: bool = False
    preset: Preset = "published"
    epochs: int | None = None
    resume: bool = False
    overwrite: bool = False
    keep_failing: bool = False

    def __post_init__(self) -> None:
        self._check_source()
        self._check_targets()
        self._check_data()
        self._check_pruning()
        self._check_training()

    @property
    def is_ready_graph(self) -> bool:
        """Whether the source is an ONNX model, by its name's ending in any case."""
        return self.source.suffix.lower() == ".onnx"

    @property
    def npu_targets(self) -> tuple[str, ...]:
        """Targets with an NPU."""
        return tuple(name for name in self.targets if get_board(name).platform)

    @property
    def route(self) -> Route:
        """The route: what was asked for, int8 for an NPU when nothing was, float32 otherwise."""
        if self.qat:
            return Route("int8")
        if self.ptq:
            return Route("int8", self.ptq)
        if self.precision:
            return Route(self.precision)
        return Route("int8", "normal") if self.npu_targets else Route("fp32")

    @property
    def retrains(self) -> bool:
        """Whether the weights change, so that the network is trained again."""
        return self.prune is not None or self.qat

    @property
    def channel_block(self) -> int:
        """What the number of channels that stay is rounded up to a multiple of."""
        return self.round_to or CHANNEL_BLOCK[self.route.precision]

    @property
    def restructures(self) -> bool:
        """Whether the network is restructured: on a CPU in float32 nothing is gained (docs/restructuring.md)."""
        return self.restructure and (bool(self.npu_targets) or self.route.precision == "int8")

    def _check_source(self) -> None:
        if self.source.absolute() == self.output.absolute():
            raise InputError("a bundle cannot be made of itself", field="output", hint="choose another --output")
        ready = self.is_ready_graph
        if ready and self.arch:
            raise InputError("a ready .onnx model has its own architecture", field="arch", hint="leave out --arch")
        if self.weights is not None:
            if ready:
                raise InputError("a ready .onnx model has one network", field="weights", hint="leave out --weights")
            if not self.weights:
                raise InputError("is empty", field="weights", hint="name weights of the checkpoint, or leave it out")
        if (ready or self.arch) and self.spec is None:
            what = "a ready .onnx model" if ready else "--arch"
            raise InputError(f"{what} needs a description of its input and output", hint="add --spec FILE.toml")
        if self.spec and not (ready or self.arch):
            raise InputError(f"{self.model} has a spec of its own", field="spec", hint="leave out --spec or add --arch")

    def _check_targets(self) -> None:
        if not self.targets or len(set(self.targets)) != len(self.targets):
            raise InputError("name each target once", field="target")
        for name in self.targets:
            get_board(name)
        routes = {"--precision": self.precision, "--ptq": self.ptq, "--qat": self.qat}
        asked = [option for option, value in routes.items() if value]
        if len(asked) > 1:
            problem = f"{asked[0]} and {asked[1]} are two routes, a conversion takes one"
            raise InputError(problem, hint="leave one of them out")
        if self.precision == "fp32" and self.npu_targets:
            problem = f"the NPU of {self.npu_targets[0]} does not compute in float32"
            raise InputError(problem, field="precision", hint="choose --precision fp16, --ptq or --qat")
        if self.precision == "fp16" and HOST in self.targets:
            problem = "onnxruntime computes in float32 on a CPU; float16 would only be converted there and back"
            hint = "leave --target onnxruntime out: every bundle holds a float32 artefact for it anyway"
            raise InputError(problem, field="precision", hint=hint if self.npu_targets else "choose --precision fp32")
        if self.ptq not in (None, "normal") and HOST in self.targets:
            problem = f"the algorithm {self.ptq} is one of the RK3588 toolkit, not of onnxruntime"
            raise InputError(problem, field="ptq", hint="choose --ptq normal, or leave --target onnxruntime out")
        if self.toolkit and not self.npu_targets:
            problem = "a toolkit version was given, but no target that needs it"
            raise InputError(problem, field="toolkit", hint="add --target rk3588s")

    def _check_data(self) -> None:
        if self.holdout and self.data is None:
            raise InputError("there is no data to hold out from", field="holdout", hint="add --data SERIES")
        if self.holdout and not 0 <= self.holdout[0] < self.holdout[1]:
            raise InputError(f"{self.holdout[0]}:{self.holdout[1]} is no range of slices", field="holdout")
        if self.calibration_slabs < 1 or self.verification_slabs < 1:
            raise InputError("there must be at least one slab each to calibrate and to verify on")

    def _check_pruning(self) -> None:
        if self.prune is None:
            changed = {
                "round-to": self.round_to is not None,
                "importance": self.importance != "l1",
                "scope": self.scope != "layer",
                "keep": bool(self.keep),
                "scan": self.scan,
            }
            _refuse_without(changed, "nothing is pruned", "--prune R")
            return
        if not 0 < self.prune < 1:
            raise InputError(f"{self.prune:g} is no share between 0 and 1", field="prune", hint="--prune 0.5 halves")
        if self.round_to is not None and self.round_to < 1:
            raise InputError(f"{self.round_to} is no number of channels", field="round-to", hint="--round-to 16, say")
        if self.importance not in IMPORTANCES:
            known = f"known: {', '.join(IMPORTANCES)}"
            raise InputError(f"there is no importance {self.importance!r}", field="importance", hint=known)
        if not all(self.keep) or len(set(self.keep)) != len(self.keep):
            raise InputError("name each layer once", field="keep")

    def _check_training(self) -> None:
        if not self.retrains:
            changed = {"preset": self.preset != "published", "epochs": self.epochs is not None}
            _refuse_without(changed, "nothing is trained", "--prune R or --qat")
            return
        if self.is_ready_graph:
            option = "qat" if self.qat else "prune"
            problem = "a ready .onnx model cannot be trained"
            raise InputError(problem, field=option, hint="give the checkpoint it was exported from")
        if self.qat and self.toolkit == _ROUNDS_QAT_WEIGHTS_ANEW:
            problem = f"rknn-toolkit2 {self.toolkit} rounds the weights of a QAT network anew (docs/qat.md)"
            raise InputError(problem, field="qat", hint="use 2.3.2")
        if self.qat and not self.restructure:
            problem = "int8 is trained into the restructured network, without BatchNorms and sigmoid"
            raise InputError(problem, field="qat", hint="leave out --no-restructure")
        if self.epochs is not None and self.epochs < 1:
            raise InputError(f"{self.epochs} is no number of epochs", field="epochs", hint="one is the least")


def _refuse_without(changed: Mapping[str, bool], problem: str, needed: str) -> None:
    """Refuse the first option that was changed from its default though nothing would use it."""
    for option, is_changed in changed.items():
        if is_changed:
            raise InputError(problem, field=option, hint=f"add {needed}, or leave out --{option}")
