"""How much a retrained network marks: as many false positives as the original had, so that the rest goes into recall.

A network that learnt that some of what the original marks is no nodule marks less than the original, of nodules too.
One number, the bias of the logits, trades one for the other. It is set on slices upside down, which nothing is trained
on: on those that it was trained on a network is better than on any others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from edgelung.converters.passes.graph import layer
from edgelung.converters.quantisation.fake_quantise import FakeQuantise
from edgelung.converters.retraining.scenes import Scene
from edgelung.runtime.preprocess import prepare_stack
from edgelung.spec import NetworkInput

__all__ = ["match_false_positives", "shift_logits"]

RUNS = 32  # of all scenes together

Answer = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.floating]]


def match_false_positives(
    answer: Answer, original: Answer, scenes: Sequence[Scene], spec: NetworkInput, *, threshold: float, limit: float
) -> float:
    """What to add to the logits, so that as much is marked outside known nodules as the original marks there.

    Args:
        answer: Of the network, (1, slices, height, width) input to (outputs, height, width) logits.
        original: Of the original, likewise.
        scenes: What to compare them on.
        spec: What both eat.
        threshold: Logit from which on a pixel is marked.
        limit: Most that is added or taken away: a network that is further off has not learnt, and no bias mends that.

    Returns:
        An amount within the limit; 0 where the original marks nothing there.
    """
    runs = [(scene, int(first)) for scene in scenes for first in scene.firsts]
    chosen = [runs[index] for index in np.linspace(0, len(runs) - 1, min(RUNS, len(runs))).round().astype(int)]
    marked, ours = 0, []
    for scene, first in chosen:
        packing = spec.packing
        free = ~scene.mask[first : first + packing.outputs, ::-1]
        tensor = prepare_stack(scene.hu[first - packing.before :][: packing.slices, ::-1], spec)
        ours.append(np.sort(np.asarray(answer(tensor))[free]))
        marked += int(np.count_nonzero(np.asarray(original(tensor))[free] >= threshold))
    values = np.sort(np.concatenate(ours))[::-1] if ours else np.empty(0)
    if not 0 < marked < len(values):
        return 0.0
    return float(np.clip(threshold - (values[marked - 1] + values[marked]) / 2, -limit, limit))


def shift_logits(network: fx.GraphModule, model: nn.Module, amount: float) -> bool:
    """Add to the bias that a network's logits come from.

    Args:
        network: The network as a graph that ends in its logits.
        model: With layers of the same names; its layer is changed.
        amount: Logits.

    Returns:
        Whether they come from a convolution with a bias; otherwise nothing is changed.
    """
    (*_, last) = network.graph.nodes
    (node,) = last.all_input_nodes
    while isinstance(layer(network, node), _PASSING):
        (node,) = node.all_input_nodes
    if not isinstance(layer(network, node), (nn.Conv2d, nn.ConvTranspose2d)):
        return False
    bias = model.get_submodule(str(node.target)).bias
    if not isinstance(bias, torch.Tensor):
        return False
    with torch.no_grad():
        bias.add_(amount)
    return True


_PASSING = (FakeQuantise, nn.Identity)
