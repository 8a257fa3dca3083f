"""All passes over one network, in their order, and the proof that the result computes the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, fx, nn

from edgelung.converters.passes.affine import affine_of, refusal
from edgelung.converters.passes.as_convolution import replace_by_convolution
from edgelung.converters.passes.constant_channel import add_constant, constant_for, constant_source
from edgelung.converters.passes.fold_backward import fold_backward, move_scale_back
from edgelung.converters.passes.fold_forward import Landing, absorb, landing_of
from edgelung.converters.passes.graph import STAGE, layer, remove, trace
from edgelung.converters.passes.padding import pad_with_shifts
from edgelung.converters.passes.proof import FLOAT64_LIMIT, Difference, measure_difference
from edgelung.converters.passes.reach import find_reach
from edgelung.converters.passes.room import ChannelRoom
from edgelung.converters.passes.split_sigmoid import cut_sigmoid, ends_in_sigmoid
from edgelung.errors import ConversionError, InputError, VerificationError

__all__ = ["Restructured", "restructure"]

FLOAT32_LIMIT = 1e-5  # relative; float32 gave up to 1.8e-6 with the same networks
Border = Literal["exact", "interior", "shifts"]
_NORMALISATIONS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True, eq=False)
class Restructured:
    """A network without its BatchNorms, and how it was proven.

    Attributes:
        model: In eval mode, in the dtype of the original. Layers keep the names they had.
        folded: BatchNorms that are gone without a layer in their place.
        constants: Convolutions that got one more output channel, a constant.
        convolutions: BatchNorms that are depthwise 1x1 convolutions now.
        left: BatchNorms, and the activation at the end, that stayed, each with the reason.
        interior: Those of ``folded`` that zero padding or a transposed convolution was in the way of.
        exactness: ``exact``: the same everywhere. ``interior``: not in a ring at the border, and meant to be trained.
            ``shifts``: the same everywhere as the network with the padding of :func:`pad_with_shifts`.
        output: What the network gives.
        difference: From the original in float64; on the logits when ``output`` is logit.
        rounded: The same with ``model`` in its own dtype. A pixel is wrong in it by the limit of float32.
    """

    model: fx.GraphModule
    folded: tuple[str, ...]
    constants: tuple[str, ...]
    convolutions: tuple[str, ...]
    left: tuple[tuple[str, str], ...]
    interior: tuple[str, ...]
    exactness: Border
    output: Literal["probability", "logit"]
    difference: Difference
    rounded: Difference

    def describe(self) -> str:
        """One line for people."""
        done = f"{len(self.folded)} BatchNorms folded ({len(self.constants)} by a constant channel)"
        parts = [done, f"{len(self.convolutions)} made depthwise convolutions", f"output: {self.output}"]
        for reason in dict.fromkeys(reason for _, reason in self.left):
            names = [name for name, told in self.left if told == reason]
            parts.append(f"left: {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''} ({reason})")
        error = self.difference
        if self.exactness != "interior":
            parts.append(f"exact to {error.relative:.1e} (float64), {self.rounded.relative:.1e} (as stored)")
        else:
            where = f"{error.wrong_pixels} of {error.pixels} pixels, within {error.ring_px} px of the border"
            parts.append(f"exact in the interior only: {where}, are off by up to {error.max_abs:.3g} {self.output}")
        return "; ".join(parts)


def restructure(
    model: nn.Module,
    probe: Tensor,
    *,
    border: Border = "exact",
    room: ChannelRoom | None = None,
    otherwise: Literal["convolution", "keep"] = "convolution",
    training_follows: bool = False,
    output: Literal["probability", "logit"] = "probability",
) -> Restructured:
    """Fold every BatchNorm away and split the sigmoid off, then prove it on a probe.

    For each BatchNorm the first of these that applies: into the convolution before it; into the convolutions after it
    where no zero padding is in the way; with a constant channel where that is free; with ``border="interior"`` also
    where zero padding is in the way; with a constant channel where ``room`` sets no limit; ``otherwise``. The size of
    its scale first moves back through a ReLU where it can. docs/restructuring.md has the algebra and the costs.

    Args:
        model: In eval mode or not; it is left as it is. All its weights have one float dtype.
        probe: (N, C, height, width) input in the unit of the network (HU, say) on which the result is compared with
            the original in float64. For ``border="interior"`` wider than twice the reach of the network.
        border: ``exact``, or ``interior``: a ring at the border is wrong until training has mended it; or ``shifts``:
            every BatchNorm goes; what is left is another network in a ring at the border, to be trained as it is: that
            of :func:`pad_with_shifts`, and proven against it.
        room: Channel blocks of the target; constant channels are then added only where they cost nothing. None adds
            them wherever they are needed.
        otherwise: What becomes of the rest: a depthwise 1x1 ``convolution``, so that no BatchNorm is left, or
            ``keep`` the BatchNorm, which takes half the memory on an RK3588.
        training_follows: Must be True for ``border="interior"``.
        output: What ``model`` gives.

    Raises:
        InputError: If arguments contradict each other or the probe does not suit the network.
        ConversionError: If the network cannot be followed, or the probe is too small to show an interior.
        VerificationError: If the result is not the original; this would be an error of edgelung.
    """
    if border == "interior" and not training_follows:
        problem = "a network that is exact in the interior only must be trained before it is used"
        raise InputError(problem, field="border", hint='give border="exact", or let training follow')
    dtype = _dtype_of(model)
    reference = trace(model, probe).to("cpu", torch.float64)
    work = _Work(trace(reference, None), border, room, otherwise)
    if output == "probability" and ends_in_sigmoid(reference):
        for network in (reference, work.network):
            cut_sigmoid(network)
        output = "logit"
    elif output == "probability":
        work.left.append(("output", "does not end in a sigmoid"))
    _fold_all(work)
    exactness: Border = border if work.interior else "exact"
    if exactness == "shifts":
        pad_with_shifts(reference, tuple(work.interior))
    difference = _prove(reference, work.network, probe, exactness)
    stored = work.network.to(dtype)
    return Restructured(
        model=stored,
        folded=tuple(work.folded),
        constants=tuple(work.constants),
        convolutions=tuple(work.convolutions),
        left=tuple(work.left),
        interior=tuple(work.interior),
        exactness=exactness,
        output=output,
        difference=difference,
        rounded=measure_difference(reference, stored, probe, dtype=dtype, limit=FLOAT32_LIMIT),
    )


@dataclass
class _Work:
    network: fx.GraphModule
    border: Border
    room: ChannelRoom | None
    otherwise: str
    folded: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    convolutions: list[str] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    interior: list[str] = field(default_factory=list)


def _fold_all(work: _Work) -> None:
    network = work.network
    for node in list(network.graph.nodes):
        if node.op == "call_function" and node.target is nn.functional.batch_norm:
            work.left.append((node.name, "is called as a function; make it a BatchNorm2d layer"))
        elif isinstance(layer(network, node), _NORMALISATIONS):
            reason = refusal(network, node)
            if reason:
                work.left.append((str(node.target), reason))
            else:
                _fold_one(work, node)
    network.graph.lint()
    network.delete_all_unused_submodules()
    network.recompile()


def _fold_one(work: _Work, node: fx.Node) -> None:
    """One BatchNorm, by the cheapest way that keeps the border as it is asked for."""
    network, name = work.network, str(node.target)
    bn = layer(network, node)
    if not isinstance(bn, nn.BatchNorm2d):
        raise TypeError(f"{name} is no BatchNorm2d")
    affine = affine_of(bn)
    if fold_backward(network, node, affine):
        work.folded.append(name)
        return
    reach = find_reach(network, node, affine)
    landing = landing_of(reach, affine)
    source = constant_source(network, node, reach)
    free = source is not None and work.room is not None and work.room.has_room(reach)
    inexact = landing != Landing.EVERYWHERE
    as_bias = not inexact or work.border == "shifts"
    as_bias |= landing == Landing.INTERIOR and work.border == "interior" and not free
    with_constant = source is not None and (free or work.room is None)
    if not reach.refusal and as_bias:
        affine = move_scale_back(network, node, affine)
        for absorber in reach.absorbers:
            absorb(absorber, affine)
        remove(network, node)
        work.interior += [name] if inexact else []
        work.folded.append(name)
    elif not reach.refusal and with_constant and source is not None:
        constant = constant_for(bn)
        add_constant(network, node, move_scale_back(network, node, affine), reach, source, constant)
        work.constants.append(str(source.target))
        work.folded.append(name)
    elif work.otherwise == "convolution":
        replace_by_convolution(network, node, move_scale_back(network, node, affine))
        work.convolutions.append(name)
    else:
        work.left.append((name, reach.refusal or _obstacle(landing, source)))


def _obstacle(landing: str, source: fx.Node | None) -> str:
    what = "a transposed convolution" if landing == Landing.NOWHERE else "a zero-padded convolution"
    if source is None:
        return f"{what} follows, and no convolution before it can make a constant channel"
    return f"{what} follows, and a constant channel would cost more than it saves"


def _prove(reference: nn.Module, network: nn.Module, probe: Tensor, exactness: Border) -> Difference:
    difference = measure_difference(reference, network, probe)
    if exactness != "interior" and not difference.relative <= FLOAT64_LIMIT:
        hint = "this is an error of edgelung; convert the network as it is with --no-restructure"
        raise VerificationError(
            "relative difference after restructuring", difference.relative, FLOAT64_LIMIT, hint=hint
        )
    if exactness == "interior" and not difference.leaves_interior:
        reason = f"a probe of shape {tuple(probe.shape)} is border everywhere, so it shows no exact interior"
        raise ConversionError(STAGE, reason, hint="give a larger one")
    return difference


def _dtype_of(model: nn.Module) -> torch.dtype:
    tensors = [*model.parameters(), *model.buffers()]
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if len(dtypes) != 1:
        names = ", ".join(sorted(map(str, dtypes))) or "none"
        raise InputError(f"the weights must have one float dtype, these have {names}", hint="call model.float() first")
    return dtypes.pop()
