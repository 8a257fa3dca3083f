"""The stages that change weights: prune, least squares, restructure, recover, and training with the NPU's rounding."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, fx, nn

from edgelung._codec import to_json
from edgelung.bundle import StageRecord
from edgelung.calibration import Holdout, describe_data
from edgelung.converters.passes import (
    RK3588_FP16,
    RK3588_INT8,
    restructure,
    threshold_to_logit,
    unfold,
)
from edgelung.converters.pruning import GroupSensitivity, LayerCut, prune, reconstruct, scan_sensitivity
from edgelung.converters.quantisation import to_exportable
from edgelung.converters.recipe import Recipe
from edgelung.converters.record import ConversionRecord
from edgelung.converters.rehearsal import rehearse
from edgelung.converters.retraining import (
    Retrained,
    Scenes,
    Teacher,
    find_teacher,
    gather_scenes,
    get_preset,
    prepare_rounding,
    quantise_aware,
    recover,
    to_logits,
)
from edgelung.converters.slabs import Slabs
from edgelung.converters.stages import PROBE_PX, probe_of
from edgelung.converters.toolkit import ToolkitEnvironment
from edgelung.converters.workspace import Workspace
from edgelung.errors import ConversionError
from edgelung.spec import NetworkInput

__all__ = ["RetrainedRecord", "identify_slabs", "retrain"]

PROVEN_PX = 64  # least height and width of the middle of a slab on which a cut is proven
SCANNED = 2  # slabs: each of some 20 networks answers to them
RECOVER, QAT = "recover", "qat"
STAGES = "edgelung_stages"  # key beside the weights of a kept stage

Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class RetrainedRecord:
    """What retraining made.

    Attributes:
        record: With the network to export.
        layers: Every convolution before and after pruning; empty when nothing was pruned.
        weights: What it learnt, as a state_dict of the architecture it came in (of other widths when it was pruned);
            None when that has no place for it.
        scan: What pruning each group of channels alone changes; empty when that was not asked for.
    """

    record: ConversionRecord
    layers: tuple[LayerCut, ...]
    weights: dict[str, Tensor] | None
    scan: tuple[GroupSensitivity, ...]


def identify_slabs(slabs: Slabs) -> str:
    """Equal for equal data to learn from: a hash of what is fitted to, which is chosen from all of them."""
    digest = hashlib.sha256()
    for tensor in slabs.fit:
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def retrain(
    recipe: Recipe,
    record: ConversionRecord,
    slabs: Slabs,
    workspace: Workspace,
    *,
    environment: ToolkitEnvironment | None = None,
    announce: Tell,
    note: Tell,
    tick: Tell | None,
) -> RetrainedRecord:
    """Prune, restructure, let the network learn again, and train with rounding, as far as the recipe asks for it.

    A stage whose result is in the workspace is not done again. What comes after the training is rehearsed before it,
    with ``environment`` as far as a target needs the vendor's toolkit.

    Raises:
        ConversionError: When the network cannot be followed, pruned or trained.
        VerificationError: When a step is not what it was proven to be; this would be an error of edgelung.
    """
    align_px = record.spec.input.in_plane.align_px
    teacher = find_teacher(_model(record), record.spec.output.quantity, slabs.fit[0], align_px=align_px)
    work = _Work(
        recipe, slabs, record.spec.input, workspace, announce, note, tick, teacher, record.spec.output.quantity
    )
    work.finished = {stage: workspace.load(stage) for stage in (RECOVER, QAT)}
    layers: tuple[LayerCut, ...] = ()
    scan: tuple[GroupSensitivity, ...] = ()
    if recipe.scan:
        scan = work.scan(_model(record))
    if recipe.prune is not None:
        record, layers = work.prune(record)
    unfolded = _model(record)
    if recipe.restructures:
        record = work.restructure(record)
    folded = _model(record)
    if work.finished[QAT if recipe.qat else RECOVER] is None:
        announce("rehearse what comes after the training")
        rehearse(recipe, record, slabs, environment, tick)
    record = work.recover(record)
    if recipe.qat:
        record = work.quantise(record)
    return RetrainedRecord(record, layers, work.weights(unfolded, folded, record), scan)


@dataclass
class _Work:
    recipe: Recipe
    slabs: Slabs
    spec: NetworkInput
    workspace: Workspace
    announce: Tell
    note: Tell
    tick: Tell | None
    teacher: Teacher
    quantity: Literal["probability", "logit"]  # of the original
    finished: dict[str, dict[str, Tensor] | None] = field(default_factory=dict)
    _scenes: Scenes | None = None
    _probes: dict[int, Tensor] = field(default_factory=dict)

    def scan(self, model: nn.Module) -> tuple[GroupSensitivity, ...]:
        """By the share of the logits' variance on some slabs that each group's channels make."""
        self.announce("scan the layers")
        recipe, ratio = self.recipe, self.recipe.prune or 0.0
        inputs = [torch.from_numpy(tensor) for tensor in self.slabs.fit[:SCANNED]]
        expected = [self._logits(model, value) for value in inputs]
        spread = sum(float(logits.var()) for logits in expected)

        def changed(network: nn.Module) -> float:
            off = (self._logits(network, value) - own for value, own in zip(inputs, expected, strict=True))
            return sum(float(error.square().mean()) for error in off) / spread

        tick = self._counted("groups")
        return scan_sensitivity(
            model,
            self._probe(model, PROVEN_PX),
            changed,
            (ratio / 2, ratio),
            round_to=recipe.channel_block,
            importance=recipe.importance,
            keep=recipe.keep,
            calibration=inputs,
            tick=None if tick is None else lambda done, total, _: tick(done, total),
        )

    def _logits(self, model: nn.Module, value: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = to_logits(model, self.quantity, self._probe(model, PROVEN_PX))(value)
        return logits

    def _probe(self, model: nn.Module, wanted: int = PROBE_PX) -> Tensor:
        """Found once: what changes weights and widths changes nothing of the planes that a network can be run on."""
        if wanted not in self._probes:
            self._probes[wanted] = probe_of(model, self.slabs.golden, self.spec, wanted)
        return self._probes[wanted]

    def prune(self, record: ConversionRecord) -> tuple[ConversionRecord, tuple[LayerCut, ...]]:
        self.announce("prune")
        recipe, model = self.recipe, _model(record)
        inputs = [torch.from_numpy(tensor) for tensor in self.slabs.fit]
        pruned = prune(
            model,
            self._probe(model, PROVEN_PX),
            ratio=recipe.prune or 0.0,
            round_to=recipe.channel_block,
            importance=recipe.importance,
            scope=recipe.scope,
            keep=recipe.keep,
            calibration=inputs,
            plane=record.spec.input.tensor.plane,
        )
        self.note(pruned.describe())
        if pruned.describe_left():
            self.note(f"not pruned: {pruned.describe_left()}")
        summary = pruned.describe()
        if self.finished[RECOVER] is None:
            self.announce("fit the weights that are left")
            fits = reconstruct(model, pruned.model, pruned.kept, inputs, seed=recipe.seed, tick=self._counted("layers"))
            first, last = fits[-1].before, fits[-1].after
            summary += f"; least squares left {last:.2f} of the output's variance unexplained instead of {first:.2f}"
        record = record.after("prune", summary, model=pruned.model, parameters=pruned.parameters_after)
        return record, pruned.layers

    def recover(self, record: ConversionRecord) -> ConversionRecord:
        model, state = _model(record), self.finished[RECOVER]
        if state is not None:
            stages = _take_stages(state)
            model.load_state_dict(state)
            return replace(record, stages=stages)
        scenes = self._gather()
        self.announce("recover")
        learnt = recover(
            model,
            record.spec.output.quantity,
            self.slabs.fit,
            self.teacher,
            scenes,
            record.spec.input,
            epochs=get_preset(self.recipe.preset, self.recipe.epochs).epochs,
            threshold=threshold_to_logit(record.spec.thresholds.mask_probability),
            seed=self.recipe.seed,
            tick=self._learning(),
        )
        return self._keep(record, RECOVER, learnt, scenes)

    def restructure(self, record: ConversionRecord) -> ConversionRecord:
        self.announce("restructure")
        made = restructure(
            _model(record),
            self._probe(_model(record)),
            border="shifts",
            room=RK3588_INT8 if self.recipe.route.precision == "int8" else RK3588_FP16,
            otherwise="convolution" if self.recipe.qat else "keep",
            output=record.spec.output.quantity,
        )
        spec = replace(record.spec, output=replace(record.spec.output, quantity=made.output))
        return record.after("restructure", made.describe(), model=made.model, spec=spec)

    def quantise(self, record: ConversionRecord) -> ConversionRecord:
        model, state = _graph(_model(record)), self.finished[QAT]
        if state is not None:
            stages = _take_stages(state)
            network = prepare_rounding(model, self.slabs.fit)
            network.load_state_dict(state)
            return replace(record, stages=stages, model=to_exportable(network), rounding=network)
        scenes = self._gather()
        self.announce("train with int8")
        learnt = quantise_aware(
            model,
            self.slabs.fit,
            self.teacher,
            scenes,
            record.spec.input,
            epochs=get_preset(self.recipe.preset, self.recipe.epochs).qat_epochs,
            threshold=threshold_to_logit(record.spec.thresholds.mask_probability),
            seed=self.recipe.seed,
            tick=self._learning(),
        )
        record = self._keep(record, QAT, learnt, scenes)
        network = _graph(learnt.model)
        return replace(record, model=to_exportable(network), rounding=network)

    def weights(self, unfolded: nn.Module, folded: nn.Module, record: ConversionRecord) -> dict[str, Tensor] | None:
        """What was learnt, without rounding, in the layers the network had before it was restructured."""
        learnt = (record.rounding or _model(record)).state_dict()
        plain = copy.deepcopy(folded)
        plain.load_state_dict({key: learnt[key] for key in plain.state_dict()})
        if isinstance(plain, fx.GraphModule):
            try:
                plain = unfold(unfolded, plain, self._probe(unfolded))
            except ConversionError as error:
                self.note(f"the bundle has no weights to go on from: {error}")
                return None
        return {key: tensor for key, tensor in plain.state_dict().items() if tensor.is_floating_point()}

    def _keep(self, record: ConversionRecord, stage: str, learnt: Retrained, scenes: Scenes) -> ConversionRecord:
        summary = f"{learnt.describe()}; on {scenes.words}"
        self.note(f"{stage}: {summary}")
        record = record.after(stage, summary, model=learnt.model)
        self.workspace.save(stage, {**learnt.model.state_dict(), STAGES: _pack(record.stages)})
        return record

    def _gather(self) -> Scenes:
        if self._scenes is None:
            self.announce("choose what to learn from")
            recipe = self.recipe
            self._scenes = gather_scenes(
                None if recipe.data is None else describe_data(recipe.data),
                self.spec,
                self.teacher,
                count=get_preset(recipe.preset, recipe.epochs).scenes,
                holdout=None if recipe.holdout is None else Holdout(*recipe.holdout),
                seed=recipe.seed,
                note=self.note,
                tick=self._counted("scenes"),
            )
        return self._scenes

    def _counted(self, what: str) -> Callable[[int, int], None] | None:
        tell = self.tick
        return None if tell is None else lambda done, total: tell(f"{what} {done}/{total}")

    def _learning(self) -> Callable[[int, int, float], None] | None:
        tell, start = self.tick, time.monotonic()
        if tell is None:
            return None

        def learning(done: int, total: int, loss: float) -> None:
            left = (time.monotonic() - start) / done * (total - done)
            tell(f"step {done}/{total}, loss {loss:.3f}, about {left:.0f} s left")

        return learning


def _pack(stages: tuple[StageRecord, ...]) -> Tensor:
    """Words as a tensor, which is all that a workspace keeps."""
    return torch.frombuffer(bytearray(json.dumps(to_json(stages)).encode()), dtype=torch.uint8)


def _take_stages(state: dict[str, Tensor]) -> tuple[StageRecord, ...]:
    words = bytes(state.pop(STAGES).tolist())
    return tuple(StageRecord(**stage) for stage in json.loads(words))


def _graph(model: nn.Module | None) -> fx.GraphModule:
    if not isinstance(model, fx.GraphModule):
        raise ConversionError(QAT, "the network still has its BatchNorms", hint="leave out --no-restructure")
    return model


def _model(record: ConversionRecord) -> nn.Module:
    if record.model is None:
        raise ConversionError("retrain", "a ready graph cannot be trained", hint="give the checkpoint")
    return record.model
