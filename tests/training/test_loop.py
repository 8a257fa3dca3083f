"""The loop learns, takes what it is given, and stops where there are no numbers."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch.nn import functional

from edgelung.converters.training import run_steps
from edgelung.errors import ConversionError


def batches(count=None, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    number = 0
    while count is None or number < count:
        inputs = torch.randn(16, 3, generator=generator) * scale
        yield inputs, inputs @ torch.tensor([[1.0], [-2.0], [0.5]])
        number += 1


def squared(model, batch):
    inputs, wanted = batch
    return functional.mse_loss(model(inputs), wanted)


def set_up(learning_rate=0.1, optimizer=torch.optim.SGD):
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    network = torch.nn.Linear(3, 1)
    inner = optimizer(network.parameters(), lr=learning_rate)
    model, outer = fabric.setup(network, inner)
    return fabric, network, inner, model, outer


def test_it_learns_and_tells_every_step():
    fabric, network, _, model, optimizer = set_up()
    seen = []
    losses = run_steps(fabric, model, optimizer, batches(), squared, steps=50, tick=lambda *step: seen.append(step))
    assert np.mean(losses[-5:]) < 0.01 * losses[0]
    assert network.weight.flatten().tolist() == pytest.approx([1.0, -2.0, 0.5], abs=0.1)
    assert seen == [(step, 50, loss) for step, loss in enumerate(losses, start=1)]


def test_it_is_plain_gradient_descent():
    fabric, network, _, model, optimizer = set_up()
    reference = torch.nn.Linear(3, 1)
    reference.load_state_dict(network.state_dict())
    descent = torch.optim.SGD(reference.parameters(), lr=0.1)
    run_steps(fabric, model, optimizer, batches(), squared, steps=5)
    for _, batch in zip(range(5), batches(), strict=False):
        descent.zero_grad()
        squared(reference, batch).backward()
        descent.step()
    assert torch.equal(network.weight, reference.weight)


def test_exactly_so_many_batches_are_taken():
    fabric, _, _, model, optimizer = set_up()
    source = batches(10)
    run_steps(fabric, model, optimizer, source, squared, steps=4)
    assert len(list(source)) == 6
    with pytest.raises(ConversionError, match="ended before step 3 of 4"):
        run_steps(fabric, model, optimizer, batches(2), squared, steps=4)


def test_the_schedule_is_stepped_with_every_batch():
    fabric, _, inner, model, optimizer = set_up()
    schedule = torch.optim.lr_scheduler.StepLR(inner, step_size=1, gamma=0.5)
    run_steps(fabric, model, optimizer, batches(), squared, steps=3, schedule=schedule)
    assert inner.param_groups[0]["lr"] == pytest.approx(0.1 / 8)


@pytest.mark.parametrize(("clip", "moved"), [(1e-3, True), (None, False)])
def test_large_gradients_are_clipped_when_asked(clip, moved):
    fabric, network, _, model, optimizer = set_up(learning_rate=1.0)
    before = network.weight.clone()
    run_steps(fabric, model, optimizer, batches(scale=100.0), squared, steps=1, clip_norm=clip)
    assert ((network.weight - before).norm() < 1.1e-3) == moved


def test_what_is_no_number_stops_the_training_before_it_spreads():
    fabric, network, _, model, optimizer = set_up()

    def source():
        yield from batches(2)
        yield torch.full((16, 3), float("nan")), torch.zeros(16, 1)

    with pytest.raises(ConversionError, match=r"no numbers at step 3; lower the learning rate"):
        run_steps(fabric, model, optimizer, source(), squared, steps=5)
    assert torch.isfinite(network.weight).all()


def test_mixed_precision_is_the_fabrics():
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    network = torch.nn.Linear(3, 1)
    kinds = set()

    def loss(model, batch):
        found = model(batch[0])
        with fabric.autocast():
            kinds.add(network(batch[0]).dtype)
        return functional.mse_loss(found.float(), batch[1])

    run_steps(fabric, *fabric.setup(network, torch.optim.SGD(network.parameters(), lr=0.1)), batches(), loss, steps=2)
    assert kinds == {torch.bfloat16}
    assert network.weight.dtype == torch.float32
