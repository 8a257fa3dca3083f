"""Reading .rknn files: what they say, and every way in which they can be broken."""

import json
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rknn_builder import NETWORK, description, rknn_bytes

from edgelung.boards.rknn_file import RknnTensor, read_rknn
from edgelung.errors import BundleError

ANYWHERE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "model.rknn"
        path.write_bytes(content)
        return read_rknn(path)

    return read


def test_it_tells_version_platforms_and_tensors(read):
    content = rknn_bytes(description({"a": (1, 7, 64, 32)}, {"b": (1, 1, 64, 32), "c": (1, 5)}, version="2.5.0"))
    file = read(content)
    assert (file.format_version, file.toolkit_version, file.platforms) == (6, "2.5.0", ("rk3588",))
    assert file.inputs == (RknnTensor("a", (1, 7, 64, 32), "float16"),)
    assert [tensor.name for tensor in file.outputs] == ["b", "c"]
    assert file.size == len(content)


def test_a_quantised_tensor_has_its_type(read):
    assert {tensor.dtype for tensor in read(rknn_bytes(description(dtype="int8"))).inputs} == {"int8"}


@ANYWHERE
@given(st.integers(0, len(rknn_bytes()) - 1))
def test_a_file_cut_anywhere_is_refused(read, length):
    with pytest.raises(BundleError, match=r"model\.rknn: .*copy it again"):
        read(rknn_bytes()[:length])


@ANYWHERE
@given(st.sampled_from([8, 16, 64 + len(NETWORK)]), st.integers(0, 2**64 - 1))
def test_another_version_or_length_is_refused_without_allocating_it(read, offset, value):
    content = bytearray(rknn_bytes())
    if struct.unpack_from("<Q", content, offset)[0] == value:
        return
    struct.pack_into("<Q", content, offset, value)
    with pytest.raises(BundleError, match=r"version|bytes|should end|became shorter"):
        read(bytes(content))


@ANYWHERE
@given(st.binary(min_size=1, max_size=200))
def test_nothing_may_follow_the_description(read, more):
    with pytest.raises(BundleError, match="should end"):
        read(rknn_bytes() + more)


@ANYWHERE
@given(st.binary(max_size=300))
def test_junk_is_refused(read, junk):
    with pytest.raises(BundleError):
        read(junk)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@ANYWHERE
@given(st.sampled_from(sorted(description())), JSON)
def test_a_description_with_any_other_field_is_read_or_refused(read, name, value):
    content = {**description(), name: value}
    try:
        file = read(rknn_bytes(json.dumps(content).encode()))
    except BundleError:
        return
    assert file.inputs and file.outputs and file.platforms


def replaced(path, value):
    content = description()
    target = content
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[]", "no JSON object"),
        (b"{", "not as known"),
        (b"\xff{}", "not as known"),
        (b"[" * 100_000, "not as known"),
        (b'{"version": 1, "version": 2}', "same key twice"),
        (b'{"version": NaN}', "NaN"),
        (b"9" * 10_000, "not as known"),
        (replaced(["target_platform"], []), "target_platform is empty"),
        (replaced(["target_platform"], [3588]), "target_platform is no plain text"),
        (replaced(["version"], "2.3.2\n"), "version is no plain text"),
        (replaced(["norm_tensor", 0, "url"], "\ud800"), "url is no plain text"),
        (replaced(["norm_tensor", 0, "size"], [1, -7]), "no static shape"),
        (replaced(["norm_tensor", 0, "size"], [1, True]), "no static shape"),
        (replaced(["norm_tensor", 0, "size"], [1] * 9), "no static shape"),
        (replaced(["norm_tensor", 0, "tensor_id"], 1), "the tensor 1 twice"),
        (replaced(["norm_tensor"], description()["norm_tensor"] * 200), "more than 256 tensors"),
        (replaced(["graph", 0, "right_tensor_id"], 7), "in order"),
        (replaced(["graph", 0, "left_tensor_id"], 1), "in order"),
        (replaced(["graph", 0, "left"], "side"), "in order"),
        (replaced(["input_num"], 2), "input_num"),
        (replaced(["output_num"], True), "output_num"),
    ],
)
def test_a_description_that_cannot_be_meant_is_refused_with_its_reason(read, content, reason):
    with pytest.raises(BundleError, match=reason) as caught:
        read(rknn_bytes(content))
    assert "\n" not in str(caught.value)


def test_a_huge_description_is_refused_before_it_is_read(read):
    with pytest.raises(BundleError, match="more than 4194304 bytes"):
        read(rknn_bytes(b" " * (4 << 20) + b"{}"))


@pytest.mark.parametrize(("network", "reason"), [(b"", "says it holds"), (b"\0" * 64, "something else")])
def test_what_holds_no_network_is_refused(read, network, reason):
    with pytest.raises(BundleError, match=reason):
        read(rknn_bytes(network=network))


def test_a_folder_or_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent.rknn"):
        with pytest.raises(BundleError, match="is not a file"):
            read_rknn(path)
