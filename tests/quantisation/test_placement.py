"""Where rounding is placed, what shares a range, and what is refused."""

import pytest
import torch
from quantisation.small_networks import Residual, batches, float_unet
from torch import nn

from edgelung.converters.quantisation import RK3588_RULES, calibrate, prepare_qat
from edgelung.converters.quantisation.fake_quantise import FakeQuantise, QuantisedConv2d, QuantisedConvTranspose2d
from edgelung.errors import ConversionError


def rounded_after(network):
    """Name of each rounded node -> name of its range."""
    return {
        node.args[0].name: str(node.target).rpartition(".")[2]
        for node in network.graph.nodes
        if node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), FakeQuantise)
    }


def test_a_unet_is_rounded_where_the_board_writes_to_memory():
    found = rounded_after(prepare_qat(float_unet(), RK3588_RULES))
    skip = "unet_down_path_0_block_4"
    shared = {node: own for node, own in found.items() if own == skip}
    assert set(shared) == {skip, "unet_pool", "unet_up_path_0_up", "cat"}
    alone = {node for node, own in found.items() if node == own} - {skip}
    assert alone == {
        "slices", "unet_down_path_0_block_1", "unet_down_path_1_block_1", "unet_down_path_1_block_4",
        "unet_up_path_0_conv_block_block_1", "unet_up_path_0_conv_block_block_4", "unet_last",
    }  # fmt: skip
    assert len(found) == len(shared) + len(alone)


def test_additions_maxima_and_relu_functions_are_placed():
    found = rounded_after(prepare_qat(Residual(), RK3588_RULES))
    alone = {name: name for name in ("x", "relu", "second", "third", "relu_1", "up")}
    assert found == {**alone, "pool": "relu_1"}


def test_a_shared_range_covers_every_branch_in_any_order():
    network = prepare_qat(float_unet(), RK3588_RULES)
    calibrate(network, batches())
    shared = network.get_submodule("activation_rounding.unet_down_path_0_block_4")
    assert shared.low[0] == 0 and shared.low[1] < 0  # a ReLU and a transposed convolution
    step, zero_point = shared.parameters_now()
    assert (-128 - zero_point) * step <= shared.low.min() + step
    assert (127 - zero_point) * step >= shared.high.max() - step


def test_weights_are_rounded_per_output_channel():
    network = prepare_qat(float_unet(), RK3588_RULES)
    for conv in network.modules():
        if isinstance(conv, (QuantisedConv2d, QuantisedConvTranspose2d)):
            axis = 1 if isinstance(conv, QuantisedConvTranspose2d) else 0
            rounded = conv.weight_rounding(conv.weight).detach().transpose(0, axis).flatten(1)
            assert rounded.shape[0] == conv.out_channels
            for channel, plain in zip(rounded, conv.weight.detach().transpose(0, axis).flatten(1), strict=True):
                steps = channel / (plain.abs().max().clamp_min(1e-30) / 127)
                assert torch.allclose(steps, steps.round(), atol=1e-3)
                assert (channel - plain).abs().max() <= plain.abs().max() / 254 * 1.0001


def test_keys_of_the_weights_stay_and_the_original_is_left_alone():
    model = float_unet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prepared = prepare_qat(model, RK3588_RULES).state_dict()
    assert all(torch.equal(prepared[name], tensor) for name, tensor in before.items())
    assert all(name.startswith("activation_rounding.") for name in set(prepared) - set(before))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(self.conv(x))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), r"1 \(BatchNorm2d\).*restructuring folds"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid()), r"1 \(Sigmoid\).*split off"),
        (
            nn.Sequential(nn.Conv2d(3, 3, 1), nn.SiLU()),
            r"1 \(SiLU\) has no int8 form for rk3588; train .* with ReLU instead",
        ),
        (nn.Sequential(nn.ConvTranspose2d(4, 4, 2, groups=2)), "transposed convolution in groups"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")), "padding_mode=.reflect., which"),
        (Shared(), "called in several places"),
    ],
)
def test_what_has_no_int8_form_is_refused_by_name(model, reason):
    with pytest.raises(ConversionError, match=reason):
        prepare_qat(model, RK3588_RULES)


def test_a_prepared_network_is_not_prepared_again():
    with pytest.raises(ConversionError, match="prepared already"):
        prepare_qat(prepare_qat(float_unet(), RK3588_RULES), RK3588_RULES)
