"""What quantisation-aware training cannot carry: one line with the way out, never a traceback."""

import pytest
from quantisation.refused_networks import REFUSED, Around, Call, upsample
from torch import nn
from torch.nn import functional

from edgelung.converters.quantisation import ONNXRUNTIME_RULES, RK3588_RULES, prepare_qat
from edgelung.errors import ConversionError


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_one_line_that_names_the_operator_and_the_way_out(name):
    middle, reason, way_out = REFUSED[name]
    with pytest.raises(ConversionError, match=reason) as caught:
        prepare_qat(Around(middle()), RK3588_RULES)
    assert way_out in caught.value.hint
    assert caught.value.stage == "quantise"
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 320


@pytest.mark.parametrize(
    "middle",
    [
        upsample,
        lambda: upsample(scale_factor=3),
        lambda: upsample(scale_factor=(2, 4)),
        lambda: upsample(mode="nearest"),
        lambda: upsample(mode="nearest", scale_factor=(2, 3)),
        lambda: Call(lambda x: functional.interpolate(x, scale_factor=2.0)),
        lambda: nn.AvgPool2d(3, 2, 1),
        lambda: nn.AvgPool2d(2, count_include_pad=False),
        lambda: nn.MaxPool2d(3, 2, 1),
        lambda: nn.Conv2d(16, 16, 3, stride=2, padding=1),
        lambda: nn.Conv2d(16, 16, 3, padding=2, dilation=2),
        lambda: nn.Conv2d(16, 16, 3, padding="same", groups=4, bias=False),
        lambda: nn.ConvTranspose2d(16, 16, 3, 2, 1, output_padding=1),
        lambda: Call(lambda x: functional.interpolate(x, scale_factor=[2, 2])),
        lambda: Call(lambda x: functional.dropout(x, 0.3, training=False).contiguous().clone()),
        nn.AlphaDropout,
    ],
)
def test_what_has_an_int8_form_is_taken(middle):
    prepare_qat(Around(middle()), RK3588_RULES)


def test_an_engine_that_rounds_before_it_adds_takes_a_convolution_of_its_own_input():
    middle, _, _ = REFUSED["own input"]
    prepare_qat(Around(middle()), ONNXRUNTIME_RULES)


def test_a_message_of_many_lines_becomes_one():
    def fail(x):
        raise RuntimeError("first\nsecond")

    with pytest.raises(ConversionError, match=r"RuntimeError: first, test_refusals\.py:\d+; ") as caught:
        prepare_qat(Around(Call(fail)), RK3588_RULES)
    assert "second" not in str(caught.value)
