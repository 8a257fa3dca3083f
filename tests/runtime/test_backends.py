"""One contract for every engine, and how an engine is chosen."""

import hashlib
import json
import sys

import numpy as np
import pytest
from boards.rknn_builder import description, rknn_bytes
from bundle_builders import bright_output, make_bundle, network_input, npu_record
from fake_rknnlite import FakeNpu

from edgelung.boards import get_board
from edgelung.bundle import open_bundle
from edgelung.errors import BackendError, BackendUnavailableError, BundleError, InputError, VerificationError
from edgelung.runtime import CTPipeline
from edgelung.runtime.backends import BACKENDS, SessionOptions, open_session, rknn, table, usable_backend
from edgelung.runtime.golden import check_golden
from edgelung.runtime.preprocess import prepare_stack

NPU_FILE = "networks/bright/rk3588-fp16.rknn"
TENSORS = ({"slices": (1, 3, 64, 64)}, {"probability": (1, 1, 64, 64)})


def add_npu_artefact(target, content=None):
    """Give a bundle an .rknn file and its record."""
    content = rknn_bytes(description(*TENSORS)) if content is None else content
    (target / NPU_FILE).write_bytes(content)
    manifest = json.loads((target / "manifest.json").read_text())
    artefacts = manifest["networks"]["bright"]["artefacts"]
    record = npu_record({"file": NPU_FILE, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)})
    artefacts[:] = [*(item for item in artefacts if item["engine"] != "rknn"), record]
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


@pytest.fixture
def bundle(tmp_path):
    with open_bundle(add_npu_artefact(make_bundle(tmp_path / "b"))) as opened:
        yield opened


def npu_network(nhwc):
    """The test network as an NPU has it: NHWC in, NCHW out."""
    stack = (nhwc[0].transpose(2, 0, 1).astype(np.float64) - 0.5) / 0.01
    return [bright_output(stack, network_input())[np.newaxis]]


@pytest.fixture
def npu(monkeypatch):
    """A board with a stand-in for rknnlite."""
    npu = FakeNpu(npu_network)
    npu.install(monkeypatch)
    monkeypatch.setattr(rknn, "detect_board", lambda: get_board("rk3588s"))
    return npu


@pytest.fixture(params=BACKENDS)
def session(request, bundle):
    if request.param == "rknn":
        request.getfixturevalue("npu")
    session = open_session(bundle, "bright", request.param)
    yield session
    session.close()


def golden_input(bundle):
    ((stack, output),) = bundle.golden("bright")
    return prepare_stack(stack, bundle.manifest.networks["bright"].input), output


def test_an_engine_answers_the_golden_input_with_the_golden_output(bundle, session):
    tensor, output = golden_input(bundle)
    answer = session.run(tensor)
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, output, atol=1e-4)
    assert not np.allclose(answer * 1.02, output, atol=1e-4)  # the comparison can fail
    assert session.engine in BACKENDS


def test_an_engine_gives_a_new_array_and_leaves_the_input_alone(bundle, session):
    tensor, _ = golden_input(bundle)
    before = tensor.copy()
    first = session.run(tensor)
    kept = first.copy()
    first[...] = -1
    assert np.array_equal(session.run(tensor), kept)
    assert np.array_equal(tensor, before)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensor: tensor.astype(np.float64),
        lambda tensor: tensor[:, :2],
        lambda tensor: tensor[0],
        lambda tensor: tensor[..., ::2],
    ],
    ids=["float64", "channels", "no batch", "plane"],
)
def test_an_engine_refuses_what_was_not_compiled(bundle, session, spoil):
    with pytest.raises(BackendError, match="input is"):
        session.run(spoil(golden_input(bundle)[0]))


def test_a_closed_engine_says_so_and_closing_twice_is_harmless(bundle, session):
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(golden_input(bundle)[0])


def test_replay_never_makes_up_an_answer(bundle):
    tensor, _ = golden_input(bundle)
    with pytest.raises(BackendError, match="no golden input"):
        open_session(bundle, "bright", "replay").run(tensor + 1)


def test_nan_in_an_output_is_a_failure_not_an_empty_mask(bundle):
    tensor, _ = golden_input(bundle)
    tensor[0, 1, 5, 5] = np.nan
    with pytest.raises(BackendError, match="NaN"):
        open_session(bundle, "bright", "onnxruntime").run(tensor)


def test_a_graph_that_is_not_what_the_manifest_says_is_refused(tmp_path):
    target = make_bundle(tmp_path / "b")
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["networks"]["bright"]["output"]["tensor"]["name"] = "other"
    (target / "manifest.json").write_text(json.dumps(manifest))
    with open_bundle(target) as bundle, pytest.raises(BackendError, match="the graph's output is"):
        open_session(bundle, "bright", "onnxruntime")


def test_a_file_that_is_no_model_is_a_backend_error_with_one_line(tmp_path):
    target = make_bundle(tmp_path / "b")
    (target / "networks/bright/onnxruntime-fp32.onnx").write_bytes(b"junk")
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["networks"]["bright"]["artefacts"][0].update(size=4, sha256=hashlib.sha256(b"junk").hexdigest())
    (target / "manifest.json").write_text(json.dumps(manifest))
    with open_bundle(target) as bundle, pytest.raises(BackendError, match="onnxruntime: open failed") as caught:
        open_session(bundle, "bright", "onnxruntime")
    assert "\n" not in str(caught.value)


def test_auto_takes_onnxruntime_here_and_never_replay(bundle, monkeypatch):
    assert usable_backend(bundle, "auto") == "onnxruntime"
    monkeypatch.setitem(
        table.BACKENDS, "onnxruntime", table.Backend(lambda: "the package is not installed", lambda *_: None)
    )
    with pytest.raises(BackendUnavailableError, match="onnxruntime: the package is not installed"):
        usable_backend(bundle, "auto")


def test_an_unknown_engine_lists_the_known_ones(bundle):
    with pytest.raises(InputError, match="unknown backend 'tpu'; choose auto, rknn, onnxruntime, replay"):
        usable_backend(bundle, "tpu")


def test_the_wrong_board_is_refused_before_an_engine_opens(tmp_path):
    target = make_bundle(tmp_path / "b")
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["networks"]["bright"]["artefacts"][0]["platforms"] = ["rk3576"]
    (target / "manifest.json").write_text(json.dumps(manifest))
    with open_bundle(target) as bundle:
        with pytest.raises(BundleError, match="no onnxruntime artefact for rk3588"):
            usable_backend(bundle, "onnxruntime", board=get_board("rk3588s"))
        with pytest.raises(BackendUnavailableError, match="no onnxruntime artefact for rk3588"):
            usable_backend(bundle, "auto", board=get_board("rk3588s"))


def test_the_golden_check_passes_a_right_engine_and_no_wrong_one(bundle):
    session = open_session(bundle, "bright", "onnxruntime")
    assert check_golden(bundle, "bright", session, 1e-4) < 1e-5

    class Wrong:
        engine = "wrong"

        def __init__(self, change):
            self._change = change

        def run(self, tensor):
            return self._change(session.run(tensor)).astype(np.float32)

    for change in (lambda y: y * 1.01, lambda y: y + 1e-3, np.zeros_like, lambda y: y[..., ::-1]):
        with pytest.raises(VerificationError, match="golden output of bright"):
            check_golden(bundle, "bright", Wrong(change), 1e-4)


def test_the_test_network_is_what_its_numpy_twin_says(bundle):
    spec = network_input()
    stack = np.random.default_rng(5).integers(-1000, 1000, size=(3, 64, 64)).astype(np.int16)
    answer = open_session(bundle, "bright", "onnxruntime").run(prepare_stack(stack, spec))
    np.testing.assert_allclose(answer[0], bright_output(stack, spec), atol=1e-5)


# What only the rknn engine has. The stand-in replays what was seen of rknnlite; the NPU itself is in none of this.


def test_an_npu_session_gets_one_core_and_nhwc_and_is_released_once(bundle, npu):
    session = open_session(bundle, "bright", "rknn", SessionOptions(core=2))
    assert ("init_runtime", 4) in npu.calls
    assert npu.open == 1
    session.run(golden_input(bundle)[0])
    assert npu.calls[-1] == ("inference", ((1, 64, 64, 3),))
    session.close()
    session.close()
    assert [call for call, _ in npu.calls].count("release") == 1
    assert npu.open == 0


@pytest.mark.parametrize("core", [-1, 3])
def test_a_core_that_the_board_does_not_have_is_refused(bundle, npu, core):
    with pytest.raises(BackendError, match=f"rk3588s has 3 NPU cores, no core {core}"):
        open_session(bundle, "bright", "rknn", SessionOptions(core=core))
    assert npu.calls == []


def test_channels_come_out_where_they_went_in(tmp_path, npu):
    npu.network = lambda nhwc: [nhwc.transpose(0, 3, 1, 2)[:, 2:].copy()]
    with open_bundle(add_npu_artefact(make_bundle(tmp_path / "b"))) as bundle:
        tensor = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
        answer = open_session(bundle, "bright", "rknn").run(tensor)
    assert np.array_equal(answer, tensor[:, 2:])
    assert not np.array_equal(answer, tensor[:, :1])


@pytest.mark.parametrize(
    ("trouble", "call", "reason"),
    [
        ({"init_code": -13}, "init_runtime", r"-1 \(RKNN_ERR_FAIL\); the lines that rknnlite wrote"),
        ({"api": "2.3.0 (c949ad889d@2024-11-07)"}, "open", r"librknnrt 2\.3\.0 is older than the toolkit 2\.3\.2"),
        ({"api": "unknown"}, "get_sdk_version", "no API version"),
    ],
)
def test_a_failed_open_says_why_and_leaves_nothing_open(bundle, npu, trouble, call, reason):
    for name, value in trouble.items():
        setattr(npu, name, value)
    with pytest.raises(BackendError, match=reason) as caught:
        open_session(bundle, "bright", "rknn")
    assert caught.value.call == call
    assert "\n" not in str(caught.value)
    assert npu.open == 0
    assert npu.calls[-1] == ("release", None)


@pytest.mark.parametrize("api", ["2.3.2 (x)", "2.10.0 (x)", "9.9.9"])
def test_a_runtime_of_the_toolkits_age_or_newer_is_taken(bundle, npu, api):
    npu.api = api
    open_session(bundle, "bright", "rknn").close()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"junk", "fewer than the header"),
        (rknn_bytes()[:-1], "should end"),
        (rknn_bytes(description({"slices": (1, 4, 64, 64)}, TENSORS[1])), "the network's input is"),
        (rknn_bytes(description(TENSORS[0], {"logit": (1, 1, 64, 64)})), "the network's output is"),
        (rknn_bytes(description(TENSORS[0], {"a": (1, 1, 64, 64), "b": (1, 1, 64, 64)})), "the network's output is"),
        (rknn_bytes(description(*TENSORS, version="new")), "'new' is no version"),
    ],
    ids=["junk", "truncated", "input", "output", "two outputs", "version"],
)
def test_a_file_that_rknnlite_would_open_is_refused(tmp_path, npu, content, reason):
    target = add_npu_artefact(make_bundle(tmp_path / "b"), content)
    with open_bundle(target) as bundle, pytest.raises(BackendError, match=reason) as caught:
        open_session(bundle, "bright", "rknn")
    assert "\n" not in str(caught.value)
    assert npu.open == 0


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda nhwc: [np.full((1, 1, 64, 64), np.nan, np.float32)], "NaN"),
        (lambda nhwc: [np.zeros((1, 64, 64, 1), np.float32)], "output is"),
        (lambda nhwc: [np.zeros((1, 1, 64, 65), np.float32)], "output is"),
        (lambda nhwc: [np.zeros((1, 1, 64, 64), np.int8)], "output is int8"),
        (lambda nhwc: [np.zeros((1, 1, 64, 64), np.float32)] * 2, "2 outputs"),
        (lambda nhwc: [], "0 outputs"),
    ],
    ids=["nan", "layout", "size", "dtype", "two", "none"],
)
def test_an_output_that_cannot_be_meant_is_a_failure(bundle, npu, network, reason):
    npu.network = network
    with pytest.raises(BackendError, match=reason):
        open_session(bundle, "bright", "rknn").run(golden_input(bundle)[0])


@pytest.mark.parametrize("call", ["inputs_code", "outputs_code"])
def test_an_inference_without_outputs_is_a_failure(bundle, npu, call):
    session = open_session(bundle, "bright", "rknn")
    setattr(npu, call, -5)
    with pytest.raises(BackendError, match="inference failed: no outputs came back"):
        session.run(golden_input(bundle)[0])


def test_a_run_that_rknnlite_ignored_shows_in_the_golden_check_alone(bundle, npu):
    """The limit of what can be seen: the outputs of the run before come back, and they look right."""
    session = open_session(bundle, "bright", "rknn")
    tensor, _ = golden_input(bundle)
    air = session.run(np.full_like(tensor, -9.5))
    npu.run_code = -1
    assert np.array_equal(session.run(tensor), air)
    with pytest.raises(VerificationError):
        check_golden(bundle, "bright", session, 0.01)


def test_an_exception_of_rknnlite_becomes_one_line(bundle, npu):
    def broken(nhwc):
        raise RuntimeError("first\nsecond")

    session = open_session(bundle, "bright", "rknn")
    npu.network = broken
    with pytest.raises(BackendError, match=r"rknn: inference failed: first$"):
        session.run(golden_input(bundle)[0])


def test_what_the_rknn_engine_lacks_is_said_in_words(npu, tmp_path, monkeypatch):
    library = tmp_path / "librknnrt.so"
    monkeypatch.setattr(rknn, "RUNTIME_LIBRARY", library)
    assert rknn.lacking() == f"the NPU's runtime library {library} is not there"
    library.touch()
    assert rknn.lacking() == ""
    monkeypatch.setattr(rknn, "detect_board", lambda: get_board("onnxruntime"))
    monkeypatch.setattr(rknn, "find_spec", lambda name: None)
    assert rknn.lacking() == "this is no board with a known NPU, the package rknn-toolkit-lite2 is not installed"


def test_auto_takes_the_npu_where_there_is_one(bundle, npu, tmp_path, monkeypatch):
    monkeypatch.setattr(rknn, "RUNTIME_LIBRARY", tmp_path)
    assert usable_backend(bundle, "auto", board=get_board("rk3588s")) == "rknn"
    with open_bundle(make_bundle(tmp_path / "plain")) as plain:  # no artefact for it
        assert usable_backend(plain, "auto", board=get_board("rk3588s")) == "onnxruntime"


@pytest.mark.parametrize("wrong", [False, True])
def test_a_pipeline_on_the_npu_proves_itself_before_it_is_used(npu, tmp_path, monkeypatch, wrong):
    library = tmp_path / "librknnrt.so"
    library.touch()
    monkeypatch.setattr(rknn, "RUNTIME_LIBRARY", library)
    monkeypatch.setattr("edgelung.runtime.backends.table.detect_board", lambda: get_board("rk3588s"))
    monkeypatch.setattr("edgelung.runtime.pipeline.detect_board", lambda: get_board("rk3588s"))
    target = add_npu_artefact(make_bundle(tmp_path / "b"))
    if wrong:
        npu.network = lambda nhwc: [np.zeros((1, 1, 64, 64), np.float32)]
        with pytest.raises(VerificationError, match="rknn: the largest difference from the golden output"):
            CTPipeline.load(target)
        assert npu.open == 0
        return
    with CTPipeline.load(target) as pipeline:
        assert pipeline.backend == "rknn"
        assert [name for name, _ in npu.calls].count("inference") == 1


def test_the_stand_in_replays_what_was_seen_of_rknnlite(npu, tmp_path):
    from rknnlite.api import RKNNLite

    lite = RKNNLite()
    junk = tmp_path / "junk"
    junk.write_bytes(b"junk")
    assert lite.init_runtime() == -1
    assert lite.inference([np.zeros((1, 4, 4, 3), np.float32)]) is None
    assert lite.get_sdk_version() is None
    assert lite.load_rknn(str(tmp_path / "absent")) == lite.load_rknn(str(tmp_path)) == -1
    assert lite.load_rknn(str(junk)) == 0
    assert lite.init_runtime(core_mask=9) == -1
    assert lite.init_runtime(core_mask=RKNNLite.NPU_CORE_1) == 0
    npu.network = lambda nhwc: [nhwc]
    assert lite.inference([np.zeros((1, 4, 4, 9), np.float64)]) is None
    assert lite.inference([np.zeros((1, 4, 4, 9), np.float32)])[0].shape == (1, 4, 4, 9)  # channels are not checked
    npu.run_code = -1
    assert lite.inference([np.ones((1, 4, 4, 9), np.float32)])[0].max() == 0  # of the run before


def test_a_broken_installation_of_rknnlite_is_one_line(bundle, npu, monkeypatch):
    monkeypatch.delattr(sys.modules["rknnlite.api"], "RKNNLite")
    with pytest.raises(BackendError, match="rknn: import failed: cannot import name 'RKNNLite'"):
        open_session(bundle, "bright", "rknn")


def test_a_damaged_network_prints_nothing(tmp_path, capsys):
    target = make_bundle(tmp_path / "b")
    manifest = json.loads((target / "manifest.json").read_text())
    record = manifest["networks"]["bright"]["artefacts"][0]
    content = (target / record["file"]).read_bytes()[:-40]
    (target / record["file"]).write_bytes(content)
    record.update(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    (target / "manifest.json").write_text(json.dumps(manifest))
    with open_bundle(target) as bundle, pytest.raises(BackendError, match="onnxruntime: open failed"):
        open_session(bundle, "bright", "onnxruntime")
    assert capsys.readouterr().out == ""
