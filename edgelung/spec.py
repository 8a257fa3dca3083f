"""What a network eats and gives, as frozen data.

These records travel in the manifest and are the only place where a preprocessing constant lives: the host trains and
verifies with them, the board prepares its inputs from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "InPlaneRule",
    "IntensityRule",
    "NetworkInput",
    "NetworkOutput",
    "SlicePacking",
    "TensorSpec",
]

MAX_TENSOR_ELEMENTS = 2**28  # 1 GiB of float32: far above any network for these boards, far below a hostile header


@dataclass(frozen=True)
class TensorSpec:
    """One static tensor of a network.

    Attributes:
        name: Its name in the compiled graph.
        shape: Static shape in the order of ``layout``.
        dtype: Element type at the graph's border.
        layout: Axis order; N is always 1.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "float16", "int8", "uint8"] = "float32"
    layout: Literal["NCHW"] = "NCHW"

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a tensor needs a name")
        if len(self.shape) != len(self.layout) or min(self.shape) < 1 or self.shape[0] != 1:
            raise ValueError(f"shape {self.shape} is not a static {self.layout} shape with N = 1")
        if math.prod(self.shape) > MAX_TENSOR_ELEMENTS:
            raise ValueError(f"shape {self.shape} has more than {MAX_TENSOR_ELEMENTS} elements")

    @property
    def channels(self) -> int:
        """C."""
        return self.shape[self.layout.index("C")]

    @property
    def plane(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.shape[self.layout.index("H")], self.shape[self.layout.index("W")]


@dataclass(frozen=True)
class IntensityRule:
    """From Hounsfield units to network input: ``clip(hu, *clip_hu) * scale + offset``.

    Attributes:
        clip_hu: Lowest and highest HU that the network sees.
        scale: Factor after clipping.
        offset: Added last.
        normalisation_in_graph: Whether the network itself normalises (a leading BatchNorm, say). Tells a reader of
            the manifest why ``scale`` may be 1; changes nothing.
    """

    clip_hu: tuple[float, float]
    scale: float = 1.0
    offset: float = 0.0
    normalisation_in_graph: bool = False

    def __post_init__(self) -> None:
        if self.clip_hu[0] >= self.clip_hu[1]:
            raise ValueError(f"clip_hu must rise, got {self.clip_hu}")
        if self.scale == 0:
            raise ValueError("scale must not be 0")


@dataclass(frozen=True)
class SlicePacking:
    """How neighbouring axial slices become the channels of one run.

    One run sees ``before + outputs + after`` consecutive slices, in order of increasing depth (towards superior), and
    answers for the ``outputs`` in the middle. Beyond the ends of the volume the first or last slice is repeated.

    Attributes:
        before: Slices of context below.
        outputs: Slices answered per run.
        after: Slices of context above.
    """

    before: int
    outputs: int
    after: int

    def __post_init__(self) -> None:
        if min(self.before, self.after) < 0 or self.outputs < 1:
            raise ValueError(f"packing needs before, after >= 0 and outputs >= 1, got {self}")

    @property
    def slices(self) -> int:
        """Slices that one run sees."""
        return self.before + self.outputs + self.after


@dataclass(frozen=True)
class InPlaneRule:
    """What is done with slices that do not have the network's height and width, and what is refused.

    A smaller slice is padded around its centre with ``pad_hu``. A larger one is covered by overlapping tiles whose
    origins are multiples of ``align_px``; of each tile the inner part, ``halo_px`` away from borders it shares with
    other tiles, is kept. With a halo above the network's receptive radius and ``align_px`` a multiple of its total
    stride the stitched result equals the network on the whole slice.

    Attributes:
        pad_hu: Value of padding.
        halo_px: Overlap that is thrown away on each inner side of a tile.
        align_px: Total stride of the network.
        max_tiles: More tiles than this per slice are refused.
        pixel_spacing_mm: Lowest and highest in-plane spacing the network is meant for.
        slice_spacing_mm: Lowest and highest distance of slices the network is meant for.
        max_obliquity_degrees: Slices tilted further from the patient's axes are refused.
    """

    pad_hu: float = -1000.0
    halo_px: int = 32
    align_px: int = 4
    max_tiles: int = 16
    pixel_spacing_mm: tuple[float, float] = (0.3, 1.2)
    slice_spacing_mm: tuple[float, float] = (0.3, 5.0)
    max_obliquity_degrees: float = 10.0

    def __post_init__(self) -> None:
        for name in ("pixel_spacing_mm", "slice_spacing_mm"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise ValueError(f"{name} must be positive and rise, got {low}, {high}")
        if self.halo_px < 0 or self.align_px < 1 or self.max_tiles < 1:
            raise ValueError("halo_px must be >= 0, align_px and max_tiles >= 1")
        if not 0 <= self.max_obliquity_degrees < 45:
            raise ValueError("max_obliquity_degrees must lie in 0..45")


@dataclass(frozen=True)
class NetworkInput:
    """Everything needed to turn an axial CT volume into the input of one run."""

    tensor: TensorSpec
    intensity: IntensityRule
    packing: SlicePacking
    in_plane: InPlaneRule

    def __post_init__(self) -> None:
        if self.tensor.channels != self.packing.slices:
            raise ValueError(f"{self.packing.slices} packed slices do not fill {self.tensor.channels} channels")
        height, width = self.tensor.plane
        rule = self.in_plane
        if height % rule.align_px or width % rule.align_px:
            raise ValueError(f"a plane of {height}x{width} is not a multiple of align_px = {rule.align_px}")
        if 2 * rule.halo_px + rule.align_px > min(height, width):
            raise ValueError(f"halo_px = {rule.halo_px} leaves nothing of a {height}x{width} tile")


@dataclass(frozen=True)
class NetworkOutput:
    """What one run gives.

    Attributes:
        tensor: One channel per output slice, the same plane as the input.
        quantity: ``probability`` in 0..1, or ``logit`` when the sigmoid was left out of the graph.
        labels: What a high value means.
    """

    tensor: TensorSpec
    quantity: Literal["probability", "logit"] = "probability"
    labels: tuple[str, ...] = ("nodule",)

    def __post_init__(self) -> None:
        if len(self.labels) != 1:
            raise ValueError(f"a segmentation output has one label, got {self.labels}")
