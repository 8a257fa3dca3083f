"""The strict codec: what goes out comes back, and what does not fit is named by its path."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
from bundle_builders import network_input

from edgelung._codec import from_json, parse_json, to_json
from edgelung.spec import InPlaneRule, NetworkInput, TensorSpec


@dataclass(frozen=True)
class Leaf:
    kind: Literal["a", "b"]
    size: tuple[int, ...]
    ratio: float = 1.0


@dataclass(frozen=True)
class Tree:
    leaves: dict[str, Leaf]
    flag: bool = False
    note: str | None = None
    pair: tuple[str, float] = field(default=("x", 0.5))


def test_round_trip():
    tree = Tree({"one": Leaf("a", (1, 2)), "two": Leaf("b", (), 3.5)}, flag=True, note="hello")
    assert from_json(Tree, to_json(tree)) == tree
    spec = network_input()
    assert from_json(NetworkInput, to_json(spec)) == spec


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([], "Tree: expected an object"),
        ({}, "Tree: missing key 'leaves'"),
        ({"leaves": {}, "extra": 1}, "Tree: unknown key 'extra'"),
        ({"leaves": {"one": {"kind": "c", "size": []}}}, r"Tree.leaves.one.kind: 'c' is not one of"),
        ({"leaves": {"one": {"kind": "a", "size": [1.5]}}}, r"Tree.leaves.one.size\[0\]: expected int"),
        ({"leaves": {"one": {"kind": "a", "size": [True]}}}, r"size\[0\]: expected int, got True"),
        ({"leaves": {"one": {"kind": "a", "size": [], "ratio": float("inf")}}}, "ratio: must be a finite number"),
        ({"leaves": {"one": {"kind": "a", "size": [], "ratio": 10**400}}}, "ratio: must be a finite number"),
        ({"leaves": {}, "flag": 1}, "Tree.flag: expected bool"),
        ({"leaves": {}, "note": 3}, "Tree.note: expected str"),
        ({"leaves": {}, "pair": ["x"]}, "Tree.pair: expected 2 values, got 1"),
    ],
)
def test_what_does_not_fit_is_named(data, reason):
    with pytest.raises(ValueError, match=reason):
        from_json(Tree, data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"slices": (3, 1, 3), "plane": (62, 64)}, "multiple of align_px"),
        ({"halo_px": 40}, "leaves nothing"),
        ({"pixel_spacing_mm": (1.0, 0.5)}, "must be positive and rise"),
    ],
)
def test_specs_that_cannot_work_are_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        network_input(**change)


def test_a_tensor_shape_must_be_static_and_bounded():
    with pytest.raises(ValueError, match="not a static NCHW"):
        TensorSpec("x", (2, 3, 4, 4))
    with pytest.raises(ValueError, match="more than"):
        TensorSpec("x", (1, 1, 100_000, 100_000))
    with pytest.raises(ValueError, match="max_tiles"):
        InPlaneRule(max_tiles=0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": {"b": 1, "b": 2}}', "the same key twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": "\xff"}', "utf-8"),
        (b"{", "Expecting"),
    ],
)
def test_json_of_strangers_is_read_strictly(content, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(content)
    assert parse_json(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
