"""Errors: one line with the way out, distinct exit codes, and whole across process borders."""

import pickle

import pytest

from edgelung import errors

SAMPLES = [
    errors.InputError("is truncated", source="scan.raw", field="size", hint="copy it again"),
    errors.BundleError("was altered", source="b", hint="make it again"),
    errors.BackendUnavailableError({"rknn": "not installed"}, hint="pip install edgelung[rknn]"),
    errors.BackendError("rknn", "inference", -6, hint="restart"),
    errors.UnsupportedOperatorError(["Conv3d up.0"], "rk3588", hint="restructure"),
    errors.ConversionError("export", "no such operator", hint="replace it"),
    errors.VerificationError("max error", 0.5, 0.1, hint="calibrate"),
]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_and_ends_with_the_way_out(error):
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert str(error).endswith(error.hint)
    assert "\n" not in str(error)


def test_every_kind_has_its_own_exit_code_beside_click_and_the_shell():
    codes = [type(error).exit_code for error in SAMPLES]
    assert len(set(codes)) == len(codes)
    assert all(2 < code < 64 for code in codes)


def test_all_kinds_share_one_root():
    assert all(isinstance(error, errors.EdgelungError) for error in SAMPLES)


@pytest.mark.parametrize("text", ["first\nsecond", "a\u2028b", "\x1b[31mred", "x" * 10_000])
def test_every_message_is_one_printable_line_of_bounded_length(text):
    error = errors.InputError(text, source=text, hint=text)
    assert str(error).isprintable() and len(str(error)) < 5000
