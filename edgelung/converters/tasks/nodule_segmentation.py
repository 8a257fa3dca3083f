"""Nodule segmentation: consecutive axial CT slices in, a probability of nodule for each pixel out."""

from __future__ import annotations

from edgelung.converters.models import ModelGeometry
from edgelung.converters.spec_file import NODULE_SEGMENTATION, NetworkSpec, SegmentationThresholds
from edgelung.errors import InputError
from edgelung.spec import InPlaneRule, IntensityRule, NetworkInput, NetworkOutput, SlicePacking, TensorSpec

__all__ = ["nodule_segmentation_spec"]

LUNA_GEOMETRY = ModelGeometry(in_slices=7, out_slices=1, stride=4, receptive_radius=23)


def nodule_segmentation_spec(
    height: int = 512, width: int = 512, geometry: ModelGeometry = LUNA_GEOMETRY
) -> NetworkSpec:
    """The spec of a registry network for this task at one static plane.

    The networks normalise Hounsfield units themselves, so the intensity rule only clips; -1000..1000 HU is the range
    that the public LUNA16 checkpoints were trained with.

    Args:
        height: Of the compiled plane, in pixels.
        width: Of the compiled plane, in pixels.
        geometry: Slices, stride and reach of the network; seven slices that answer for the middle one by default.

    Raises:
        InputError: If the plane is too small or not a multiple of the network's stride, or if the slices around the
            answered ones cannot be shared evenly.
    """
    context = geometry.in_slices - geometry.out_slices
    if context < 0 or context % 2:
        problem = f"{geometry.in_slices} slices in and {geometry.out_slices} out have no middle"
        raise InputError(problem, hint="describe the packing in a spec file (--spec)")
    default = InPlaneRule()
    align = max(default.align_px, geometry.stride)
    halo = max(default.halo_px, geometry.receptive_radius)
    if 2 * halo + align > min(height, width):  # a small plane has room for no more than what exactness needs
        halo = geometry.receptive_radius
    try:
        network_input = NetworkInput(
            tensor=TensorSpec("input", (1, geometry.in_slices, height, width)),
            intensity=IntensityRule(clip_hu=(-1000.0, 1000.0), normalisation_in_graph=True),
            packing=SlicePacking(context // 2, geometry.out_slices, context // 2),
            in_plane=InPlaneRule(halo_px=halo, align_px=align),
        )
        output = NetworkOutput(TensorSpec("output", (1, geometry.out_slices, height, width)))
        return NetworkSpec(NODULE_SEGMENTATION, network_input, output, SegmentationThresholds())
    except ValueError as error:
        raise InputError(str(error), hint="512x512 is the plane of almost every CT") from None
