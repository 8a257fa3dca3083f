"""unet-luna: the equation of the network, its keys, and rebuilding pruned ones from their shapes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelung.converters.models import UNetLuna, UNetWidths, get_model_entry, model_names
from edgelung.converters.tasks.nodule_segmentation import nodule_segmentation_spec
from edgelung.errors import InputError
from edgelung.spec import InPlaneRule

PRUNED = UNetWidths(7, ((5, 6), (9, 7), (11, 13)), ((3, 8, 9), (4, 6, 5)))


def with_random_statistics(model, seed=0):
    """Eval mode, weights and BatchNorm statistics away from their fresh values, so that no layer is an identity."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    model.unet.last.weight.data.mul_(10)  # probabilities that spread over 0..1
    return model.eval()


def by_hand(state, x):
    """The same network, level by level, straight from the state_dict."""

    def norm(x, key):
        tensors = [state[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *tensors, training=False, eps=1e-5)

    def block(x, key):
        for conv, bn in (("0", "2"), ("3", "5")):
            x = F.conv2d(x, state[f"{key}.{conv}.weight"], state[f"{key}.{conv}.bias"], padding=1)
            x = norm(torch.relu(x), f"{key}.{bn}")
        return x

    full = block(norm(x, "input_batchnorm"), "unet.down_path.0.block")
    half = block(F.avg_pool2d(full, 2), "unet.down_path.1.block")
    up = block(F.avg_pool2d(half, 2), "unet.down_path.2.block")
    for level, skip in enumerate((half, full)):
        key = f"unet.up_path.{level}"
        up = F.conv_transpose2d(up, state[f"{key}.up.weight"], state[f"{key}.up.bias"], stride=2)
        up = block(torch.cat([up, skip], dim=1), f"{key}.conv_block.block")
    return torch.sigmoid(F.conv2d(up, state["unet.last.weight"], state["unet.last.bias"]))


def test_parameters_of_the_published_network():
    assert sum(parameter.numel() for parameter in UNetLuna().parameters()) == 118_271


@pytest.mark.parametrize("widths", [UNetWidths.standard(), PRUNED], ids=["standard", "pruned"])
def test_equals_the_network_written_by_hand(widths):
    model = with_random_statistics(UNetLuna(widths))
    x = torch.randn(2, 7, 32, 24)
    with torch.inference_mode():
        expected = by_hand(model.state_dict(), x)
        assert expected.std() > 0.01
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-6)


def test_fx_traces_it_into_plain_modules():
    model = with_random_statistics(UNetLuna(PRUNED))
    traced = torch.fx.symbolic_trace(model)
    kinds = {node.op for node in traced.graph.nodes}
    functions = {node.target for node in traced.graph.nodes if node.op == "call_function"}
    assert kinds == {"placeholder", "call_module", "call_function", "output"} and functions == {torch.cat}
    x = torch.randn(1, 7, 16, 16)
    with torch.inference_mode():
        assert torch.equal(traced(x), model(x))


width = st.integers(1, 6)


@st.composite
def tables(draw):
    depth = draw(st.integers(1, 4))
    down = tuple((draw(width), draw(width)) for _ in range(depth))
    up = tuple((draw(width), draw(width), draw(width)) for _ in range(depth - 1))
    return UNetWidths(draw(st.integers(1, 9)), down, up, draw(st.integers(1, 3)))


@settings(max_examples=25, deadline=None)
@given(widths=tables())
def test_any_table_comes_back_from_the_shapes_of_its_state_dict(widths):
    model = UNetLuna(widths).eval()
    assert UNetWidths.from_state_dict(model.state_dict()) == widths
    side = 2 * widths.stride
    with torch.inference_mode():
        assert model(torch.zeros(1, widths.in_slices, side, side)).shape == (1, widths.out_slices, side, side)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_receptive_radius_is_how_far_a_pixel_sees(depth):
    model = UNetLuna(UNetWidths.standard(1, depth, 0)).eval()
    for parameter in model.parameters():
        parameter.data.abs_().add_(
            0.1
        )  # nothing cancels and no ReLU closes, so every pixel that is seen has a gradient
    stride, side = model.widths.stride, 2 * 8 * model.widths.stride
    radius = 0
    for offset in range(stride):
        x = torch.ones(1, 1, side, side, requires_grad=True)
        middle = side // 2 + offset
        model.unet(x)[0, 0, middle, middle].backward()
        rows = np.flatnonzero(x.grad[0, 0].abs().sum(1).numpy())
        radius = max(radius, middle - rows[0], rows[-1] - middle)
    assert model.widths.receptive_radius == radius


STATE = UNetLuna(PRUNED).state_dict()


def changed(**tensors):
    return {**STATE, **{key.replace("__", "."): tensor for key, tensor in tensors.items()}}


@pytest.mark.parametrize(
    ("state", "key", "reason"),
    [
        ({}, "unet.down_path.0.block.0.weight", "is missing"),
        ({k: v for k, v in STATE.items() if k != "unet.last.bias"}, "unet.last.bias", "is missing"),
        ({k: v for k, v in STATE.items() if ".up." not in k}, "unet.up_path.0.up.weight", "is missing"),
        (changed(unet__last__weight=torch.zeros(1, 4, 1, 1)), "unet.last.weight", r"\(1, 5, 1, 1\)"),
        (changed(unet__last__weight=torch.zeros(4)), "unet.last.weight", "4 axes"),
        (changed(unet__last__weight=torch.zeros(0, 5, 1, 1)), "unet", "at least 1"),
        (changed(input_batchnorm__weight=torch.zeros(8)), "input_batchnorm.weight", r"\(8,\).*\(7,\)"),
        (changed(unet__down_path__1__block__2__weight=torch.zeros(8)), "unet.down_path.1.block.2.weight", "neighbours"),
        (changed(head__weight=torch.zeros(8)), "head.weight", "does not belong"),
    ],
)
def test_states_of_other_networks_are_refused_by_key(state, key, reason):
    with pytest.raises(InputError, match=reason) as caught:
        UNetWidths.from_state_dict(state)
    assert caught.value.field == key and caught.value.hint


def test_batch_counters_may_be_absent():
    old = {key: tensor for key, tensor in STATE.items() if not key.endswith("num_batches_tracked")}
    assert UNetWidths.from_state_dict(old) == PRUNED


def test_tables_that_are_no_network_are_refused():
    with pytest.raises(ValueError, match="need 1 up"):
        UNetWidths(7, ((4, 4), (4, 4)), ())
    with pytest.raises(ValueError, match="at least 1"):
        UNetWidths(7, ((4, 0),), ())


def test_the_registry_builds_and_describes_it():
    assert model_names() == ("unet-luna",)
    entry = get_model_entry("unet-luna")
    assert entry.build_from_state(STATE).widths == PRUNED
    geometry = entry.geometry(entry.build_default())
    assert (geometry.in_slices, geometry.out_slices, geometry.stride, geometry.receptive_radius) == (7, 1, 4, 23)
    assert nodule_segmentation_spec() == nodule_segmentation_spec(512, 512, geometry)
    with pytest.raises(InputError, match=r"no network is called 'resnet'.*known: unet-luna"):
        get_model_entry("resnet")


def test_the_spec_of_the_task():
    spec = nodule_segmentation_spec(512, 512)
    assert (spec.input.intensity.clip_hu, spec.input.intensity.scale, spec.input.intensity.offset) == (
        (-1000.0, 1000.0),
        1.0,
        0.0,
    )
    assert spec.input.intensity.normalisation_in_graph
    packing = spec.input.packing
    assert (packing.before, packing.outputs, packing.after) == (3, 1, 3)
    assert spec.input.in_plane == InPlaneRule()
    assert (spec.output.quantity, spec.output.labels) == ("probability", ("nodule",))
    assert (spec.thresholds.mask_probability, spec.thresholds.min_diameter_mm) == (0.5, 2.0)


@pytest.mark.parametrize(("height", "width", "reason"), [(510, 512, "multiple"), (32, 32, "halo"), (0, 512, "static")])
def test_planes_that_do_not_suit_are_refused(height, width, reason):
    with pytest.raises(InputError, match=reason):
        nodule_segmentation_spec(height, width)


def test_a_small_plane_keeps_the_halo_that_stitching_needs():
    assert nodule_segmentation_spec(64, 64).input.in_plane.halo_px == 23
