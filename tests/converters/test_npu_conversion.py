"""From a checkpoint to a bundle with an .rknn, with the vendor's toolkit; skipped where it is not installed."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from converters.networks import answering_unet

from edgelung.boards.rknn_file import read_rknn
from edgelung.bundle import open_bundle
from edgelung.cli.inspect import inspect
from edgelung.converters import Recipe, convert
from edgelung.converters.targets.rknn import build_rknn
from edgelung.converters.toolkit import find
from edgelung.errors import ConversionError, VerificationError
from edgelung.runtime import CTPipeline

pytestmark = pytest.mark.slow

PLANE = (128, 128)


@pytest.fixture(scope="module", autouse=True)
def toolkit():
    try:
        return find()
    except ConversionError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "unet.pt"
    torch.save(answering_unet().state_dict(), path)
    return path


def made(checkpoint, folder, **options):
    options = {"plane": PLANE, "targets": ("rk3588s",), "calibration_slabs": 2, "verification_slabs": 2, **options}
    return convert(Recipe(checkpoint, folder / "b", **options))


@pytest.fixture(scope="module")
def fp16(checkpoint, tmp_path_factory):
    return made(checkpoint, tmp_path_factory.mktemp("fp16"), precision="fp16", targets=("rk3588s", "rk3588"))


@pytest.fixture(scope="module")
def int8(checkpoint, tmp_path_factory):
    return made(checkpoint, tmp_path_factory.mktemp("int8"), ptq="normal", keep_failing=True)


def test_float16_is_verified_in_the_simulator(fp16):
    host, small, large = fp16.artefacts
    assert (host.target, small.target, large.target) == ("onnxruntime", "rk3588s", "rk3588")
    assert host.precision == "fp32" and small.precision == large.precision == "fp16"
    assert small.verified and small.sha256 == large.sha256
    assert small.layers.npu == small.layers.total == small.layers.float16
    assert small.latency.source == "estimated" and small.latency.board == "rk3588s"
    assert small.latency.interval_us[0] < small.latency.us < small.latency.interval_us[1]
    metrics = {row.metric: row.value for row in small.fidelity}
    assert metrics["mask Dice"] > 0.99
    with open_bundle(fp16.output) as bundle:
        assert read_rknn(bundle.path(small)).toolkit_version.startswith("2.")
        table = json.loads(bundle.path(small.layer_table).read_bytes())
    assert len(table) == small.layers.total + 2  # input and output operators


def test_a_bundle_for_the_npu_runs_here_with_onnxruntime(fp16, int8):
    for result in (fp16, int8):
        with CTPipeline.load(result.output) as pipeline:
            assert pipeline.backend == "onnxruntime"
            pipeline.check_golden()


def test_int8_has_no_layer_in_float_and_no_conversion(int8):
    _, npu = int8.artefacts
    assert npu.precision == "int8"
    assert (npu.layers.float16, npu.layers.convert, npu.layers.cpu) == (0, 0, 0)
    calibration = int8.manifest.provenance.calibration
    assert (calibration.kind, calibration.slabs) == ("phantom", 2)
    restructured = next(s for s in int8.manifest.provenance.stages if s.stage == "restructure")
    assert "output: logit" in restructured.summary


def test_restructuring_takes_the_sigmoid_off_the_npu(int8, checkpoint, tmp_path):
    plain = made(checkpoint, tmp_path, ptq="normal", restructure=False, keep_failing=True)
    faster, slower = int8.artefacts[1].latency, plain.artefacts[1].latency
    assert faster.us < slower.us
    with open_bundle(plain.output) as bundle:
        operators = [row["operator"] for row in json.loads(bundle.path(plain.artefacts[1].layer_table).read_bytes())]
    assert any("Sigmoid" in operator for operator in operators)


def test_inspect_holds_what_there_is_to_know_of_every_artefact(int8):
    done = CliRunner().invoke(inspect, [str(int8.output), "--json"], catch_exceptions=False)
    wanted = {"network", "target", "precision", "file", "sha256", "weight_memory_kib", "model_size_kib", "layers"}
    for artefact in json.loads(done.stdout)["artefacts"]:
        assert wanted | {"latency", "fidelity"} <= set(artefact)
        assert set(artefact["layers"]) == {"total", "npu", "cpu", "float16", "convert"}
        assert set(artefact["latency"]) == {"us", "us_per_run", "slices_per_run", "interval_us", "source", "board"}
    assert "rk3588s" in CliRunner().invoke(inspect, [str(int8.output)]).stdout


def test_a_network_that_is_not_the_original_is_refused(checkpoint, tmp_path, monkeypatch):
    from edgelung.converters import artefacts

    real = artefacts.build_rknn

    def shifted(*arguments, **options):
        build = real(*arguments, **options)
        moved = tuple(np.roll(output, 9, axis=-1) for output in build.outputs)
        return type(build)(**{**vars(build), "outputs": moved})

    monkeypatch.setattr(artefacts, "build_rknn", shifted)
    with pytest.raises(VerificationError, match="rknn fp16"):
        made(checkpoint, tmp_path, precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_the_published_sizes_come_out(realdata, tmp_path):
    """Published: 236.81 and 1005.18 KiB in float16, 125.44 and 561.83 in int8; file sizes move with tensor names."""
    source = realdata / "models" / "unet-luna-a.state"
    options = {"plane": (512, 512), "restructure": False, "verification_slabs": 1}
    half = made(source, tmp_path / "half", precision="fp16", **options).artefacts[1]
    assert half.weight_memory_kib == pytest.approx(236.81, abs=0.01)
    assert half.model_size_kib == pytest.approx(1005.18, abs=0.5)
    whole = made(source, tmp_path / "whole", ptq="normal", keep_failing=True, **options).artefacts[1]
    assert whole.weight_memory_kib == pytest.approx(125.44, abs=0.6)
    assert whole.model_size_kib == pytest.approx(561.83, abs=0.5)


def test_no_space_to_work_in_is_a_line_with_the_way_out(tmp_path, monkeypatch):
    def full(path, array):
        raise OSError("1835008 requested and 274400 written")

    monkeypatch.setattr("edgelung.converters.targets.rknn.np.save", full)
    with pytest.raises(ConversionError, match=r"no space left.*another disk"):
        build_rknn(tmp_path / "m.onnx", None, folder=tmp_path / "w", algorithm=None, simulate=[np.zeros((1, 1, 2, 2))])
