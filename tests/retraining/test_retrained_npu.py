"""Pruned and trained networks on the NPU, with the vendor's toolkit; skipped where it is not installed."""

import pytest
import torch
from converters.networks import marking_unet

from edgelung.converters import Recipe, convert
from edgelung.converters.models import UNetWidths
from edgelung.converters.toolkit import find
from edgelung.errors import ConversionError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    try:
        find()
    except ConversionError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("npu")
    torch.save(marking_unet(UNetWidths(7, ((16, 16), (32, 32)), ((16, 16, 16),))).state_dict(), folder / "unet.pt")

    def make(name, **options):
        common = {"prune": 0.5, "preset": "quick", "keep_failing": True, "calibration_slabs": 4}
        plane = {"plane": (128, 128), "verification_slabs": 2, "targets": ("rk3588s",)}
        return convert(Recipe(folder / "unet.pt", folder / name, **common, **plane, **options))

    return make


def test_every_layer_of_a_pruned_qat_network_is_int8_and_answers_as_trained(made):
    host, npu = made("qat", qat=True, round_to=8).artefacts
    assert npu.layers.total == npu.layers.npu > 8
    assert npu.layers.float16 == npu.layers.convert == npu.layers.cpu == 0
    assert host.precision == npu.precision == "int8"
    compiled = {row.metric: row.value for row in npu.fidelity if row.against.startswith("retrained")}
    assert compiled["difference relative to spread"] < 0.05


def test_a_pruned_network_is_compiled_in_float16_too(made):
    host, npu = made("fp16", precision="fp16").artefacts
    assert (host.precision, npu.precision) == ("fp32", "fp16")
    assert npu.layers.total == npu.layers.float16
    compiled = {row.metric: row.value for row in npu.fidelity if row.against.startswith("retrained")}
    assert compiled["difference relative to spread"] < 0.05
