"""The residual U-Net of the examples: its factory, its spec, and a checkpoint that marks something after seconds."""

import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from edgelung.calibration import make_phantom
from edgelung.converters.datasets import Crops, LabelledScan, crop_batches
from edgelung.converters.spec_file import read_spec
from edgelung.converters.training import SegmentationLoss, run_steps
from edgelung.runtime.preprocess import apply_intensity

EXAMPLES = Path(__file__).parents[2] / "examples"
PLANE = 128


@cache
def example():
    """The module examples/residual_unet.py, imported without a path entry."""
    found = importlib.util.spec_from_file_location("residual_unet_of_the_examples", EXAMPLES / "residual_unet.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def residual_unet(width=8, down="pool", seed=0):
    """Fresh weights, in eval mode; BatchNorms with statistics unlike those of a fresh network."""
    torch.manual_seed(seed)
    model = example().ResidualUNet(width=width, down=down)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def residual_spec(quantity="logit", plane=PLANE):
    """The spec of the examples at another plane, for a network that gives logits or probabilities."""
    spec = read_spec(EXAMPLES / "residual_unet.toml")
    tensors = [replace(part.tensor, shape=(*part.tensor.shape[:2], plane, plane)) for part in (spec.input, spec.output)]
    return replace(
        spec,
        input=replace(spec.input, tensor=tensors[0]),
        output=replace(spec.output, tensor=tensors[1], quantity=quantity),
    )


@cache
def phantom(seed):
    """(hu, mask, lungs) of a slab of 16 slices, the right lung with five nodules."""
    made = make_phantom(seed, shape=(16, 2 * PLANE, 2 * PLANE), spacing_mm=(1.25, 0.7, 0.7), nodules=5)
    return made.volume.hu, made.mask, made.lungs


def slabs(seed, count, plane=PLANE):
    """``count`` (1, 3, plane, plane) float32 inputs from the middle of a phantom's slices, which are in 0..1."""
    hu, mask, _ = phantom(seed)
    inputs = []
    for index in np.argsort(-mask.sum(axis=(1, 2)), kind="stable")[:count]:
        rows, columns = (int(np.clip(np.median(axis) - plane // 2, 0, size - plane)) for axis, size in
                         zip(np.nonzero(mask[index]), hu.shape[1:], strict=True))  # fmt: skip
        middle = int(np.clip(index, 1, len(hu) - 2))
        crop = hu[middle - 1 : middle + 2, rows : rows + plane, columns : columns + plane]
        inputs.append(torch.from_numpy(apply_intensity(crop, residual_spec().input.intensity))[None])
    return inputs


def train(model, steps, learning_rate=1e-2):
    """Seeded training in place on crops of a phantom."""
    hu, mask, lungs = phantom(1)
    random = np.random.default_rng(0)
    elsewhere = np.argwhere(lungs & ~mask & (hu > -600))
    anywhere = random.integers((0, 0, 0), hu.shape, size=(1000, 3))
    negatives = np.concatenate([elsewhere[random.integers(len(elsewhere), size=2000)], anywhere])
    scan = LabelledScan(hu, mask, np.argwhere(mask), negatives)
    batches = crop_batches(Crops([scan], residual_spec().input), 8)
    fabric = Fabric(accelerator="cpu", devices=1)
    network, optimizer = fabric.setup(model.train(), torch.optim.Adam(model.parameters(), lr=learning_rate))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    loss = SegmentationLoss(recall_weight=1.0, entropy_weight=5.0)
    run_steps(fabric, network, optimizer, batches, loss, steps=steps, schedule=schedule)
    model.eval()


@cache
def trained_state(width=8, down="pool", steps=60):
    """A state_dict after some seconds of training: enough for a mask that is not empty."""
    torch.manual_seed(0)
    model = example().ResidualUNet(width=width, down=down)
    train(model, steps)
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def trained(width=8, down="pool", steps=60):
    """The network with :func:`trained_state`."""
    model = example().ResidualUNet(width=width, down=down)
    model.load_state_dict(trained_state(width, down, steps))
    return model.eval()
