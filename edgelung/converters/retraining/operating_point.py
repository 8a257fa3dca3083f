"""How much a retrained network marks: as many false positives as the original had, so that the rest goes into recall.

A network that learnt that some of what the original marks is no nodule marks less than the original, of nodules too.
One number, the bias of the logits, trades one for the other. It is set on the slices that were trained on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from edgelung.converters.passes.graph import layer
from edgelung.converters.quantisation.fake_quantise import FakeQuantise
from edgelung.converters.retraining.sources import Scenes
from edgelung.runtime.preprocess import prepare_stack
from edgelung.spec import NetworkInput

__all__ = ["match_false_positives", "shift_logits"]

RUNS = 16  # of all scenes together
SHARE = 0.95  # of the original's false positives, since other slices differ by some percent
MOST = 1.0  # in temperatures: a network that is further off has not learnt, and no bias mends that


def match_false_positives(
    answer: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.floating]],
    scenes: Scenes,
    spec: NetworkInput,
    *,
    threshold: float,
    temperature: float,
) -> float:
    """What to add to the logits, so that as much is marked outside known nodules as the original marks there.

    Args:
        answer: (1, slices, height, width) input to (outputs, height, width) logits.
        scenes: With the original's answers.
        spec: What the network eats.
        threshold: Logit from which on a pixel is marked.
        temperature: Of the original.

    Returns:
        An amount of at most one temperature to either side; 0 where the original marks nothing there.
    """
    runs = [(scene, run) for scene in scenes.all if scene.teacher is not None for run in range(len(scene.firsts))]
    chosen = [runs[index] for index in np.linspace(0, len(runs) - 1, min(RUNS, len(runs))).round().astype(int)]
    marked, ours = 0, []
    for scene, run in chosen:
        first, packing = int(scene.firsts[run]), spec.packing
        truth = scene.mask[first : first + packing.outputs]
        stack = scene.hu[first - packing.before :][: packing.slices]
        ours.append(np.sort(np.asarray(answer(prepare_stack(stack, spec)))[~truth]))
        if scene.teacher is not None:
            marked += int(np.count_nonzero(scene.teacher[run][~truth] >= threshold))
    values = np.sort(np.concatenate(ours))[::-1] if ours else np.empty(0)
    wanted = round(SHARE * marked)
    if not 0 < wanted < len(values):
        return 0.0
    limit = MOST * temperature
    return float(np.clip(threshold - (values[wanted - 1] + values[wanted]) / 2, -limit, limit))


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
