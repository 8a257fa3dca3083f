"""The toolkit's logs: real ones of both versions, and what must not be taken for one."""

import pytest
from toolkit.fake_toolkit import LOGS

from edgelung.boards.layers import LayerRecord
from edgelung.converters.toolkit.log import clean, complaints, parse_tables, read_log
from edgelung.errors import ConversionError

# A small network (Conv, ReLU, BatchNorm, AveragePool, Conv, ReLU, ConvTranspose, Concat, Conv, Sigmoid; 3x64x64) built
# by the real toolkits. 2.5.0 splits a 1x1 convolution of a Concat into two that are added.
OPERATORS = {
    "2.3.2": [
        "InputOperator", "ConvRelu", "BatchNormalization", "AveragePool", "ConvRelu", "ConvTranspose", "Concat",
        "ConvSigmoid", "OutputOperator",
    ],
    "2.5.0": [
        "InputOperator", "ConvRelu", "BatchNormalization", "AveragePool", "ConvRelu", "ConvTranspose", "Conv",
        "ConvAdd", "Sigmoid", "OutputOperator",
    ],
}  # fmt: skip


@pytest.fixture
def log():
    return read_log(LOGS / "small-int8-2.3.2.log")


@pytest.mark.parametrize(
    ("version", "precision", "weights", "internal"),
    [
        ("2.3.2", "fp16", 17.875, 664.0),
        ("2.3.2", "int8", 12.0625, 332.0),
        ("2.5.0", "fp16", 17.9375, 408.0),
        ("2.5.0", "int8", 12.25, 588.0),
    ],
)
def test_real_logs_of_both_versions_are_read(version, precision, weights, internal):
    tables = parse_tables(read_log(LOGS / f"small-{precision}-{version}.log"))
    assert (tables.weight_memory_kib, tables.internal_memory_kib) == (weights, internal)
    assert [layer.index for layer in tables.layers] == list(range(1, len(tables.layers) + 1))
    dtype = {"fp16": "FLOAT16", "int8": "INT8"}[precision]
    assert {layer.dtype for layer in tables.layers} == {dtype}
    assert {layer.target for layer in tables.layers[1:-1]} == {"NPU"}
    assert [layer.operator for layer in tables.layers] == OPERATORS[version]
    convolution = tables.layers[1]
    assert convolution == LayerRecord(
        2, "ConvRelu", dtype, "NPU", ((1, 3, 64, 64), (16, 3, 3, 3), (16,)), (1, 16, 64, 64),
        ddr_cycles=convolution.ddr_cycles, npu_cycles=36864, total_cycles=36864,
        traffic_kib={"fp16": 26.0, "int8": 14.0}[precision], name="/stem/Conv",
    )  # fmt: skip
    assert tables.layers[0].input_shapes == ()
    assert tables.layers[-1].output_shape == ()


def test_lists_that_the_compiler_cut_short_keep_what_is_there(log):
    row = next(line for line in log.split("\n") if line.endswith("Concat:/Concat  "))
    whole = row[row.index("(1,16,64,64)") :]
    short = "(1,16,64,64),(1,16,64,64),...            (1,32,64,64),...       0/0/0  128  Concat:/a: b"
    layer = next(layer for layer in parse_tables(log.replace(whole, short)).layers if layer.operator == "Concat")
    assert layer.input_shapes == ((1, 16, 64, 64), (1, 16, 64, 64))
    assert layer.output_shape == (1, 32, 64, 64)
    assert layer.name == "/a: b"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Network Layer Information Table", "Layer Table", "0 layer tables"),
        ("Cycles(DDR/NPU/Total)", "Cycles(NPU)", "unknown headings"),
        ("RW(KB)  ", "RW(MB)  ", "unknown headings"),
        ("36864/36864", "many", "is not as known"),
        ("(1,3,64,64),(16,3,3,3),(16) ", "(1,?,64,64) ", "unknown shapes"),
        ("(1,16,64,64)           3399", "\\                      3399", "no output shape"),
        ("] 2    ", "] 9    ", "row 3 of the layer table is not as known"),
        ("InputOperator ", "Input         ", "no input or no output operator"),
        ("Total Weight Memory Size: 12.0625KB", "Total Weight Memory Size: 12.0625MB", "0 lines with the total weight"),
        ("Total Internal Memory Size: ", "Total Internal Memory: ", "0 lines with the total internal"),
    ],
)
def test_a_log_that_is_not_as_known_is_an_error_and_never_zeros(log, old, new, reason):
    assert old in log
    with pytest.raises(ConversionError, match=reason.replace("(", r"\(")):
        parse_tables(log.replace(old, new))


def test_a_log_that_ends_early_or_holds_two_builds_is_an_error(log):
    whole = log.split("\n")
    first = next(number for number, line in enumerate(whole) if "ConvRelu" in line and "NPU" in line)
    for end in range(first, len(whole)):
        if any("Total Weight Memory Size" in line for line in whole[:end]):
            break
        with pytest.raises(ConversionError):
            parse_tables("\n".join(whole[:end]))
    with pytest.raises(ConversionError, match="2 lines with the total"):
        parse_tables(log + log)


def test_a_log_without_limits_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("edgelung.converters.toolkit.log._LOG_LIMIT", 100)
    (tmp_path / "toolkit.log").write_text("x" * 101)
    with pytest.raises(ConversionError, match="has more than"):
        read_log(tmp_path / "toolkit.log")


def test_colours_and_overdrawn_lines_are_gone():
    assert clean("\x1b[1;33mW\x1b[0m build\n0%|\r50%|\r100%|\r\nend") == "W build\n100%|\nend"


@pytest.mark.parametrize(
    ("log_name", "said"),
    [
        (
            "aborted-conv3d",
            "terminate called after throwing an instance of 'std::out_of_range' | what():  vector::_M_range_check: __n "
            "(which is 2) >= this->size() (which is 3) | it had rewritten the 3-D convolutions '/a/Conv', '/c/Conv', "
            "'/d/Conv'",
        ),
        ("refused-file", "google.protobuf.message.DecodeError: Error parsing message"),
        ("refused-operator", 'In Node, ("odd_one", Strange, "my.ops", -1)'),
    ],
)
def test_what_a_real_log_complained_about(log_name, said):
    found = complaints(read_log(LOGS / f"{log_name}-2.3.2.log"))
    assert said in found
    assert "\n" not in found


def test_pips_last_words_are_found():
    log = "Collecting x\nWARNING: retrying\nERROR: Could not find a version\nERROR: No matching distribution\n"
    assert complaints(log) == "ERROR: Could not find a version | ERROR: No matching distribution"
