"""The life of the ranges: averaged, frozen, stored, trained with."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quantisation.small_networks import batches, float_unet
from torch import nn

from edgelung.converters.quantisation import RK3588_RULES, calibrate, freeze_observers, prepare_qat, to_exportable
from edgelung.converters.quantisation.fake_quantise import FakeQuantise, WeightRounding, weight_scales
from edgelung.converters.quantisation.steps import even_zero_point, exact_step
from edgelung.errors import ConversionError

LIMITS = (-128, 127)


def calibrated():
    network = prepare_qat(float_unet(), RK3588_RULES)
    calibrate(network, batches())
    return network


def test_a_range_is_the_mean_of_extremes_first_and_a_moving_average_later():
    rounding = FakeQuantise(("a",), LIMITS, averaging=0.25)
    for high in (1.0, 3.0, 5.0, 7.0):  # shares 1, 1/2, 1/3, 1/4
        rounding(torch.tensor([-high, high]), 0)
    assert rounding.high.item() == pytest.approx(4.0) and rounding.low.item() == pytest.approx(-4.0)
    rounding(torch.tensor([0.0, 8.0]), 0)  # and a quarter from then on
    assert rounding.high.item() == pytest.approx(5.0) and rounding.low.item() == pytest.approx(-3.0)


def test_values_are_rounded_to_the_steps_and_clipped_to_the_range():
    rounding = FakeQuantise(("a",), LIMITS, 0.01)
    rounding(torch.tensor([-1.0, 1.0]), 0)
    step, zero_point = rounding.parameters_now()
    assert zero_point == 0 and step == pytest.approx(2 / 255, rel=1e-3)
    given_values = torch.tensor([0.0, 0.4 * step, 0.6 * step, -9.0, 9.0])
    assert torch.allclose(rounding(given_values), torch.tensor([0.0, 0.0, step, -128 * step, 127 * step]))


def test_the_gradient_goes_straight_through_inside_of_the_range_only():
    rounding = FakeQuantise(("a",), LIMITS, 0.01)
    rounding(torch.tensor([-1.0, 1.0]), 0)
    freeze = torch.tensor([0.3, -0.7, 5.0, -5.0], requires_grad=True)
    rounding.eval()(freeze).sum().backward()
    assert freeze.grad.tolist() == [1, 1, 0, 0]
    weight = torch.tensor([[0.3, -1.0], [2.0, 0.1]], requires_grad=True)
    WeightRounding(0, LIMITS)(weight).sum().backward()
    assert weight.grad.tolist() == [[1, 1], [1, 1]]


def test_a_channel_without_weights_has_the_step_of_the_largest_one():
    scales = weight_scales(torch.tensor([[0.0, 0.0], [1.27, -0.5], [0.127, 0.0]]), 0, LIMITS)
    assert scales.tolist() == pytest.approx([0.01, 0.01, 0.001])
    assert weight_scales(torch.zeros(2, 2), 0, LIMITS).tolist() == pytest.approx([1 / 127] * 2)


@given(st.floats(1e-6, 1e6))
def test_steps_round_ties_of_means_exactly(width):
    step = exact_step(width / 255)
    assert width / 255 <= step <= width / 255 * 1.004
    single = torch.tensor(step)  # float32, as all engines compute
    assert single.item() == step
    ties = torch.arange(-255, 255) + 0.5
    for engine in (ties * single / single, ties * single * (1 / single)):  # onnxruntime divides, torch multiplies
        assert torch.equal(engine, ties)


def test_most_steps_do_not():
    single = torch.tensor(torch.pi / 100)
    ties = torch.arange(-255, 255) + 0.5
    assert not torch.equal(ties * single * (1 / single), ties)


@given(st.floats(-1000, 0), st.floats(0.01, 10))
def test_zero_points_are_even_integers_of_the_range(low, step):
    zero_point = even_zero_point(low, step, LIMITS)
    assert zero_point % 2 == 0 and -128 <= zero_point <= 127
    if low / step > -254:
        assert abs((-128 - zero_point) * step - low) <= step * 1.001


def test_frozen_ranges_stay_and_others_move():
    network = calibrated().train()
    before = copy.deepcopy(network.state_dict())
    network(1.5 * batches(1)[0])
    assert any(not torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    freeze_observers(network)
    before = copy.deepcopy(network.state_dict())
    network(3 * batches(1)[0])
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    with pytest.raises(ConversionError, match="frozen"):
        calibrate(network, batches())


def test_evaluation_does_not_move_ranges():
    network = calibrated().eval()
    before = copy.deepcopy(network.state_dict())
    network(3 * batches(1)[0])
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_without_calibration_nothing_is_guessed():
    network = prepare_qat(float_unet(), RK3588_RULES)
    with pytest.raises(ConversionError, match=r"no range was seen for slices.*calibrate"):
        network.eval()(batches(1)[0])
    with pytest.raises(ConversionError, match="no range was seen"):
        to_exportable(network)
    with pytest.raises(ConversionError, match="no range was seen"):
        calibrate(network, [])
    with pytest.raises(ConversionError, match="not finite"):
        calibrate(network, [torch.full((1, 3, 48, 48), torch.inf)])
    with pytest.raises(ConversionError, match="no fake-quantisation"):
        freeze_observers(float_unet())


def test_a_state_dict_brings_everything_back():
    network = calibrated()
    freeze_observers(network)
    other = prepare_qat(float_unet(seed=1), RK3588_RULES)
    other.load_state_dict(network.state_dict(), strict=True)
    x = batches(1, seed=5)[0]
    assert torch.equal(network.eval()(x), other.eval()(x))
    with pytest.raises(ConversionError, match="frozen"):
        calibrate(other, batches())


def test_the_exportable_copy_computes_the_same_but_for_biases():
    network = calibrated().eval()
    x = batches(1, seed=5)[0]
    step, _ = network.get_submodule("activation_rounding.unet_last").parameters_now()
    with torch.no_grad():
        steps = ((to_exportable(network)(x) - network(x)) / step).abs()
    assert steps.max() <= 3 and (steps > 0.5).float().mean() < 0.1


def test_a_network_that_diverged_is_not_exported():
    network = calibrated()
    freeze_observers(network)
    with torch.no_grad():
        network.get_submodule("unet.last").weight[0, 0] = torch.nan
    with pytest.raises(ConversionError, match=r"unet\.last\.weight is not finite.*diverged"):
        to_exportable(network)


def test_a_bias_that_its_weights_are_next_to_nothing_beside_has_coarser_steps():
    """So that it is an int32; a refusal would come after the training."""
    network = calibrated()
    conv = network.get_submodule("unet.last")
    plain = to_exportable(network).get_submodule("unet.last").weight_rounding.fixed
    with torch.no_grad():
        conv.weight.mul_(1e-12)
        conv.bias.fill_(10)
    coarse = to_exportable(network).get_submodule("unet.last")
    assert bool((coarse.weight_rounding.fixed > 1e-12 * plain).all())
    assert abs(float(coarse.bias.detach()) - 10) < 1e-6


def trained(seed):
    torch.manual_seed(seed)
    teacher, network = float_unet(), prepare_qat(float_unet(), RK3588_RULES)
    calibrate(network, batches())
    with torch.no_grad():  # damage that training has to mend through the rounding
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) * parameter.abs().mean())
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for step in range(30):
        if step == 20:
            freeze_observers(network)
        x = batches(1, seed=step % 3)[0]
        loss = nn.functional.mse_loss(network.train()(x), teacher(x).detach())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_training_through_the_rounding_mends_a_network_and_repeats():
    losses = trained(0)
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert trained(0) == losses
