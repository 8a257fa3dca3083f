"""PNG files: what OpenCV reads back is what was written, and a file is whole or absent."""

import os

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgelung.runtime.png import encode_png, write_png

SIDES = st.integers(1, 17)
IMAGES = st.one_of(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES, st.just(3)))


def decode(content):
    """Pixels as OpenCV sees them, colours in RGB order."""
    pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else pixels[..., ::-1]


@given(pixels=hnp.arrays(np.uint8, IMAGES))
def test_pixels_come_back(pixels):
    assert np.array_equal(decode(encode_png(pixels)), pixels)


@pytest.mark.parametrize("shape", [(64, 48), (64, 48, 3)])
def test_every_filter_comes_back(shape):
    """Rows that suit each filter: constant along the row, constant along the column, noise."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    pixels[:20] = np.linspace(0, 255, shape[1]).astype(np.uint8).reshape(1, -1, *[1] * (len(shape) - 2))
    pixels[20:40] = np.arange(0, 200, 10, dtype=np.uint8).reshape(-1, *[1] * (len(shape) - 1))
    assert np.array_equal(decode(encode_png(pixels)), pixels)
    assert not np.array_equal(decode(encode_png(pixels)), pixels[::-1])


def test_views_and_strides_are_fine():
    pixels = np.arange(120, dtype=np.uint8).reshape(10, 12)
    assert np.array_equal(decode(encode_png(pixels[::-2, ::3].T)), pixels[::-2, ::3].T)


def test_smooth_images_are_small():
    y, x = np.mgrid[:256, :256]
    pixels = ((x + y) // 2).astype(np.uint8)
    assert len(encode_png(pixels)) < pixels.size // 20


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((4, 4)), "uint8"),
        (np.zeros((4, 4), dtype=np.uint16), "uint8"),
        (np.zeros((4, 4, 4), dtype=np.uint8), "height, width, 3"),
        (np.zeros(4, dtype=np.uint8), "height, width"),
        (np.zeros((0, 4), dtype=np.uint8), "sides"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, pixels, reason):
    with pytest.raises(ValueError, match=reason):
        write_png(tmp_path / "image.png", pixels)
    assert list(tmp_path.iterdir()) == []


def test_a_file_replaces_the_older_one_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "image.png"
    for value in (1, 2):
        write_png(path, np.full((3, 5), value, dtype=np.uint8))
        assert np.array_equal(decode(path.read_bytes()), np.full((3, 5), value))
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    write_png(path, np.zeros((3, 5), dtype=np.uint8))
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_png(path, np.ones((3, 5), dtype=np.uint8))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
