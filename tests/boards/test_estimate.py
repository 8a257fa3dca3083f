"""The latency estimator: against measured rows, by its own rules, and on what it does not know."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelung.boards import LayerRecord, estimate, get_board
from edgelung.boards.layers import Kernel, blocks, convolution_cycles
from edgelung.errors import InputError

BOARD = get_board("rk3588s")


def layer(operator, dtype, inputs, output, cycles=0, target="NPU", index=1):
    return LayerRecord(index, operator, dtype, target, inputs, output, 0, cycles, cycles, 0.0)


def conv(dtype, inside, outside, plane, size=3, operator="ConvRelu", stride=1):
    image = (1, inside, plane * stride, plane * stride)
    return layer(operator, dtype, (image, (outside, inside, size, size), (outside,)), (1, outside, plane, plane))


def up(dtype, inside, outside, plane):
    shapes = ((1, inside, plane // 2, plane // 2), (inside, outside, 2, 2), (outside,))
    return layer("ConvTranspose", dtype, shapes, (1, outside, plane, plane))


def same(operator, dtype, channels, plane, inputs=1):
    shape = (1, channels, plane, plane)
    return layer(operator, dtype, (shape,) * inputs, shape)


def concat(dtype, channels, plane):
    whole = (1, sum(channels), plane, plane)
    return layer("Concat", dtype, tuple((1, count, plane, plane) for count in channels), whole)


def pool(operator, dtype, channels, plane):
    return layer(operator, dtype, ((1, channels, plane, plane),), (1, channels, plane // 2, plane // 2))


def output(dtype, channels, plane):
    return layer("OutputOperator", dtype, ((1, channels, plane, plane),), (), target="CPU")


# Measured on an RK3588S (NPU 1 GHz, DDR 1560 MHz, toolkit and runtime 2.3.2) by the authors of the published report:
# the cycles that the compiler printed (0: it prints none), microseconds, and what bounds the time.
MEASURED = [
    (conv("FLOAT16", 7, 16, 512), 2359296, 2707, "compute"),
    (conv("FLOAT16", 16, 16, 512), 2359296, 3105, "memory"),
    (conv("FLOAT16", 32, 16, 512), 2359296, 4060, "memory"),
    (conv("FLOAT16", 64, 64, 128), 1179648, 1396, "compute"),
    (conv("INT8", 16, 16, 512), 2359296, 2715, "compute"),
    (conv("INT8", 32, 64, 128), 294912, 385, "compute"),
    (conv("INT8", 32, 16, 512), 2359296, 3117, "memory"),
    (up("FLOAT16", 32, 16, 512), 1048576, 1452, "memory"),
    (up("INT8", 64, 32, 256), 524288, 609, "compute"),
    (up("INT8", 32, 16, 512), 1048576, 1456, "compute"),
    (conv("INT8", 16, 1, 512, size=1, operator="ConvSigmoid"), 1048576, 4469, "activation"),
    (conv("FLOAT16", 16, 1, 512, size=1, operator="ConvSigmoid"), 524288, 2785, "activation"),
    (same("BatchNormalization", "FLOAT16", 7, 512), 0, 797, "memory"),
    (same("BatchNormalization", "INT8", 64, 128), 0, 191, "memory"),
    (concat("INT8", (16, 16), 512), 0, 1475, "memory"),
    (concat("INT8", (8, 8), 512), 0, 3400, "operator"),
    (pool("AveragePool", "FLOAT16", 16, 512), 0, 4254, "operator"),
    (pool("AveragePool", "INT8", 32, 256), 0, 584, "operator"),
    (output("FLOAT16", 1, 512), 0, 692, "conversion"),
    (output("INT8", 1, 512), 0, 128, "conversion"),
]


@pytest.mark.parametrize(("record", "cycles", "us", "bound"), MEASURED)
def test_measured_layers_lie_in_their_intervals_near_the_estimate(record, cycles, us, bound):
    for npu_cycles in {0, cycles}:  # counted here, and as the compiler printed them
        (row,) = estimate([replace(record, npu_cycles=npu_cycles)], BOARD).layers
        assert row.interval_us[0] <= us <= row.interval_us[1]
        assert row.us == pytest.approx(us, rel=0.2)
        assert (row.bound, row.flags) == (bound, ())


@pytest.mark.parametrize(("record", "cycles", "us", "bound"), MEASURED)
def test_the_intervals_are_narrow_enough_to_fail(record, cycles, us, bound):
    (row,) = estimate([record], BOARD).layers
    assert not row.interval_us[0] <= us * 1.3 <= row.interval_us[1]
    assert not row.interval_us[0] <= us / 1.3 <= row.interval_us[1]


# From profiler logs of other RK3588 boards, published with their compilers' cycles.
OTHER_CYCLES = [
    (conv("FLOAT16", 3, 64, 256), 2359296),
    (conv("FLOAT16", 128, 64, 256), 9437184),
    (conv("FLOAT16", 64, 3, 256, size=1), 131072),
    (conv("FLOAT16", 3, 16, 128, stride=2), 147456),
    (conv("INT8", 3, 16, 960, stride=2), 8294400),
    (conv("INT8", 128, 128, 60), 518400),
    (conv("INT8", 256, 64, 60), 518400),
    (conv("INT8", 64, 3, 240, size=1), 230400),
]


@pytest.mark.parametrize(
    ("record", "cycles"), [*OTHER_CYCLES, *((record, cycles) for record, cycles, *_ in MEASURED if cycles)]
)
def test_cycles_are_counted_as_the_compiler_counts_them(record, cycles):
    assert convolution_cycles(Kernel.of(record), record.output_shape[2:], record.dtype) == cycles


@pytest.mark.parametrize(
    ("weight", "image", "result", "operator", "groups"),
    [
        ((32, 16, 3, 3), (1, 16, 8, 8), (1, 32, 8, 8), "Conv", 1),
        ((1, 16, 1, 1), (1, 16, 8, 8), (1, 1, 8, 8), "Conv", 1),
        ((1, 1, 3, 3), (1, 1, 8, 8), (1, 1, 8, 8), "Conv", 1),
        ((16, 1, 3, 3), (1, 16, 8, 8), (1, 16, 8, 8), "Conv", 16),
        ((1, 16, 3, 3), (1, 16, 8, 8), (1, 16, 8, 8), "ConvRelu", 16),
        ((32, 8, 3, 3), (1, 16, 8, 8), (1, 32, 8, 8), "Conv", 2),
        ((16, 32, 2, 2), (1, 16, 8, 8), (1, 32, 16, 16), "ConvTranspose", 1),
        ((16, 8, 2, 2), (1, 16, 8, 8), (1, 32, 16, 16), "ConvTranspose", 4),
    ],
)
def test_a_kernel_knows_its_groups(weight, image, result, operator, groups):
    assert Kernel.of(layer(operator, "INT8", (image, weight), result)).groups == groups


def test_depthwise_cycles_count_64_channels_at_a_time():
    kernel = Kernel((3, 3), 96, 96, 96, stride=1.0)
    assert convolution_cycles(kernel, (10, 10), "INT8") == 112 * 9 * 2


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((1, 7, 4, 4), "INT8", 16),
        ((1, 7, 4, 4), "FLOAT16", 16),
        ((1, 17, 4, 4), "INT8", 32),
        ((1, 17, 4, 4), "FLOAT16", 48),
        ((1, 8, 4, 4), "FLOAT32", 32),
        ((1, 32), "INT8", 2),
        ((1, 3, 2, 4, 4), "INT8", 32),
        ((), "INT8", 0),
        ((16,), "BOOL", 1),
        ((1, 4, 2, 2), "INT64", 8),
    ],
)
def test_channels_are_padded_to_blocks_of_16_bytes(shape, dtype, expected):
    assert blocks(shape, dtype) == expected


def test_a_total_is_the_sum_of_its_layers_and_goes_per_slice():
    rows = [record for record, *_ in MEASURED]
    whole = estimate(rows, BOARD)
    assert whole.us_per_run == pytest.approx(sum(estimate([row], BOARD).us_per_run for row in rows))
    assert whole.interval_us[0] < whole.us_per_run < whole.interval_us[1]
    assert (whole.source, whole.board, len(whole.layers)) == ("estimated", "rk3588s", len(rows))
    share = whole.per_output_slice(4)
    assert share.us == pytest.approx(whole.us_per_run / 4)
    assert share.interval_us == pytest.approx(tuple(us / 4 for us in whole.interval_us))
    assert (share.us_per_run, share.slices_per_run, share.source) == (whole.us_per_run, 4, "estimated")
    with pytest.raises(ValueError, match="at least 1"):
        whole.per_output_slice(0)


@pytest.mark.parametrize(
    ("record", "flag", "widening"),
    [
        (same("Sin", "FLOAT16", 16, 64), "operator Sin was not measured", 7.0),
        (replace(same("Sin", "FLOAT16", 16, 64), target="CPU"), "Sin runs on the CPU", 90.0),
        (conv("INT8", 512, 512, 16), "a convolution of this shape was not measured", 2.0),
        (conv("INT8", 16, 16, 64, size=7), "a convolution of this shape was not measured", 2.0),
        (conv("INT8", 16, 16, 256, size=4, stride=2), "a convolution of this shape was not measured", 2.0),
        (conv("INT8", 16, 16, 256, stride=2), "measured on other boards only", 1.5),
        (same("Add", "INT8", 16, 64, inputs=2), "measured on other boards only", 2.0),
        (conv("FLOAT16", 128, 64, 64), "measured on other boards only", 1.5),
        (conv("FLOAT16", 16, 16, 256, operator="ConvSigmoid", size=1), "not measured in FLOAT16", 2.0),
        (conv("INT8", 16, 32, 256, operator="ConvSigmoid", size=1), "measured on other boards only", 1.5),
        (output("INT8", 16, 64), "measured on other boards only", 2.0),
        (output("FLOAT16", 16, 64), "OutputOperator of channels was not measured in FLOAT16", 3.5),
        (pool("MaxPool", "INT8", 16, 64), "MaxPool was not measured in INT8", 3.5),
        (concat("FLOAT16", (4, 4), 64), "Concat misaligned was not measured in FLOAT16", 3.5),
        (same("BatchNormalization", "INT16", 16, 64), "arithmetic INT16 was not measured", 7.0),
        (layer("Reshape", "INT8", ((1, 32), (4,)), (1, 32, 1, 1)), "operator Reshape was not measured", 7.0),
    ],
)
def test_what_was_not_measured_is_flagged_and_widens_the_interval(record, flag, widening):
    (row,) = estimate([record], BOARD).layers
    assert flag in "; ".join(row.flags)
    assert row.us > 0
    assert row.interval_us[1] / row.interval_us[0] > widening
    (known,) = estimate([conv("INT8", 16, 16, 256)], BOARD).layers
    assert known.flags == () and known.interval_us[1] / known.interval_us[0] < 1.3


def test_a_layer_on_the_cpu_costs_more_than_on_the_npu():
    on_npu = same("Sin", "FLOAT16", 64, 128)
    npu, cpu = estimate([on_npu, replace(on_npu, target="CPU")], BOARD).layers
    assert cpu.us > 3 * npu.us
    assert cpu.bound == "cpu"


def test_each_board_trusts_its_own_measurements_most():
    add, average = same("Add", "INT8", 16, 64, inputs=2), pool("AveragePool", "INT8", 16, 64)
    other_add, other_average = estimate([add, average], get_board("rk3588")).layers
    assert other_add.flags == ()
    assert other_average.flags == ("measured on other boards only",)
    (own_average,) = estimate([average], BOARD).layers
    assert own_average.us == other_average.us
    assert own_average.interval_us[1] < other_average.interval_us[1]


@pytest.mark.parametrize(
    ("channels", "aligned"), [((16, 16), True), ((16, 8), True), ((8, 16), False), ((24, 16, 8), False)]
)
def test_a_concat_is_aligned_when_every_map_begins_a_block(channels, aligned):
    (row,) = estimate([concat("INT8", channels, 64)], BOARD).layers
    assert (row.bound == "memory") is aligned


def test_a_long_concat_counts_the_inputs_that_the_table_leaves_out():
    whole = concat("INT8", (16,) * 12, 64)
    cut = replace(whole, input_shapes=whole.input_shapes[:2])
    assert estimate([cut], BOARD).us_per_run == estimate([whole], BOARD).us_per_run
    (row,) = estimate([replace(cut, input_shapes=((1, 16, 64, 64), (1, 8, 64, 64)))], BOARD).layers
    assert row.bound == "operator"  # the second is not the last


def test_a_table_look_up_hides_behind_a_long_convolution():
    short = conv("INT8", 32, 32, 256, size=1, operator="ConvExSwish")
    plain = conv("INT8", 64, 64, 128)
    slow, plain_row, hidden = estimate([short, plain, replace(plain, operator="ConvExSwish")], BOARD).layers
    assert slow.bound == "activation"
    assert hidden.us == plain_row.us


SIZES = st.integers(1, 300)


@given(SIZES, SIZES, st.sampled_from([1, 3, 5]), st.integers(1, 64), st.sampled_from(["INT8", "FLOAT16", "INT16"]))
def test_more_channels_never_cost_less(inside, outside, size, plane, dtype):
    record = conv(dtype, inside, outside, plane, size)
    more = conv(dtype, inside + 16, outside + 16, plane, size)
    less_us, more_us = (estimate([item], BOARD).us_per_run for item in (record, more))
    if Kernel.of(record).groups == Kernel.of(more).groups:
        assert less_us <= more_us
    assert math.isfinite(more_us) and less_us > 0


@pytest.mark.parametrize(
    ("layers", "board", "reason"),
    [
        ([], "rk3588s", "no layers"),
        ([same("Relu", "INT8", 16, 64)], "onnxruntime", "onnxruntime has no NPU"),
        ([layer("Conv", "INT8", ((1, 3, 8, 8),), (1, 3, 8, 8))], "rk3588s", "layer 1 .Conv. has no weight shape"),
        (
            [layer("Conv", "INT8", ((1, 3, 8, 8), (5, 4, 3, 3)), (1, 5, 8, 8))],
            "rk3588s",
            r"weight \(5, 4, 3, 3\) fits not 3 -> 5",
        ),
        ([layer("Conv", "INT8", ((1, 3, 8, 8), (5, 0, 3, 3)), (1, 5, 8, 8))], "rk3588s", "fits not"),
    ],
)
def test_what_cannot_be_estimated_is_refused(layers, board, reason):
    with pytest.raises(InputError, match=reason):
        estimate(layers, get_board(board))
