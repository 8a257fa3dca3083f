"""One contract for every engine, and how an engine is chosen."""

import json

import numpy as np
import pytest
from bundle_builders import bright_output, make_bundle, network_input

from edgelung.boards import get_board
from edgelung.bundle import open_bundle
from edgelung.errors import BackendError, BackendUnavailableError, BundleError, InputError, VerificationError
from edgelung.runtime.backends import BACKENDS, open_session, table, usable_backend
from edgelung.runtime.golden import check_golden
from edgelung.runtime.preprocess import prepare_stack


@pytest.fixture
def bundle(tmp_path):
    with open_bundle(make_bundle(tmp_path / "b")) as opened:
        yield opened


@pytest.fixture(params=BACKENDS)
def session(request, bundle):
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
    import hashlib

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
    with pytest.raises(InputError, match="unknown backend 'tpu'; choose auto, onnxruntime, replay"):
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
