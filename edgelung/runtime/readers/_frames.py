"""The slices of one DICOM file: itself, or the frames of an enhanced multi-frame CT.

A frame's geometry, rescale and acquisition stand in functional groups, in a sequence that all frames share or in the
frame's own item of another sequence (DICOM PS3.3 C.7.6.16 and C.8.15.3). :class:`FrameView` looks them up, so that one
parser serves both kinds of files.
"""

from __future__ import annotations

from typing import Any

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import shown_code
from edgelung.runtime.readers._part10 import Part10
from edgelung.runtime.readers._slice_header import KEYWORDS, SliceHeader, number_of_frames, parse_slice, text

__all__ = ["FILE_KEYWORDS", "is_localizer", "is_multi_frame", "slices_of"]

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MULTI_FRAME_CT = (CT_IMAGE + ".1", CT_IMAGE + ".2")  # Enhanced CT, Legacy Converted Enhanced CT
SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
CONVERTED = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")
FILE_KEYWORDS = (
    *KEYWORDS,
    *("SOPClassUID", "Modality", "SeriesInstanceUID", "NumberOfFrames", SHARED, PER_FRAME, "ExtendedOffsetTable"),
    *("ConcatenationUID", "InConcatenationTotalNumber"),
)
# Keyword of a single-frame slice: the functional group that holds it, and its keyword there.
GEOMETRY = {
    "PixelSpacing": ("PixelMeasuresSequence", "PixelSpacing"),
    "ImageOrientationPatient": ("PlaneOrientationSequence", "ImageOrientationPatient"),
    "ImagePositionPatient": ("PlanePositionSequence", "ImagePositionPatient"),
    "RescaleSlope": ("PixelValueTransformationSequence", "RescaleSlope"),
    "RescaleIntercept": ("PixelValueTransformationSequence", "RescaleIntercept"),
    "RescaleType": ("PixelValueTransformationSequence", "RescaleType"),
}
ELSEWHERE = {
    "SliceThickness": ("PixelMeasuresSequence", "SliceThickness"),
    "SpacingBetweenSlices": ("PixelMeasuresSequence", "SpacingBetweenSlices"),
    "GantryDetectorTilt": ("CTAcquisitionDetailsSequence", "GantryDetectorTilt"),
    "ConvolutionKernel": ("CTReconstructionSequence", "ConvolutionKernel"),
    "ReconstructionDiameter": ("CTReconstructionSequence", "ReconstructionDiameter"),
    "ReconstructionAlgorithm": ("CTReconstructionSequence", "ReconstructionAlgorithm"),
    "ImageType": ("CTImageFrameTypeSequence", "FrameType"),
    "KVP": ("CTXRayDetailsSequence", "KVP"),
    "FilterType": ("CTXRayDetailsSequence", "FilterType"),
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "AcquisitionDateTime": ("FrameContentSequence", "FrameAcquisitionDateTime"),
    "TemporalPositionIndex": ("FrameContentSequence", "TemporalPositionIndex"),
    "StackID": ("FrameContentSequence", "StackID"),
    "NominalPercentageOfCardiacPhase": ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
    "NominalCardiacTriggerDelayTime": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    "NominalPercentageOfRespiratoryPhase": (
        "RespiratorySynchronizationSequence",
        "NominalPercentageOfRespiratoryPhase",
    ),
}
MACROS = {**GEOMETRY, **ELSEWHERE}


class FrameView:
    """One frame of a multi-frame file, with the elements of a single-frame slice.

    Args:
        dataset: The elements of the file.
        own: The frame's item of the functional groups.
        shared: The item of those that all frames share, or None.
    """

    def __init__(self, dataset: Any, own: Any, shared: Any) -> None:
        self._dataset = dataset
        self._groups = [item for item in (own, shared) if item is not None]

    def get(self, keyword: str) -> Any:
        """The value of an element; None without."""
        group, name = MACROS.get(keyword, ("", ""))
        for item in self._groups if group else ():
            value = _only(item.get(group), name)
            if value is not None:
                return value
        if keyword in GEOMETRY:
            return None
        for item in self._groups:
            for group in CONVERTED:
                value = _only(item.get(group), keyword)
                if value is not None:
                    return value
        return self._dataset.get(keyword)


def _only(sequence: Any, keyword: str) -> Any:
    """An element of the only item of a sequence; None without, or when items contradict each other."""
    values = [item.get(keyword) for item in sequence or ()]
    return values[0] if values and all(value == values[0] for value in values) else None


def is_localizer(part: Part10) -> bool:
    """Whether a file is a localizer (scout, topogram): an overview, not a slice."""
    return "LOCALIZER" in text(part.dataset, "ImageType", part.path).upper()


def is_multi_frame(part: Part10) -> bool:
    """Whether a file is an enhanced multi-frame CT, of one frame or many."""
    return text(part.dataset, "SOPClassUID", part.path) in MULTI_FRAME_CT


def slices_of(part: Part10) -> list[SliceHeader]:
    """The slices of a file in the order of its frames.

    Raises:
        InputError: Another modality, frames without their geometry, or a field of a slice that cannot be used.
    """
    dataset, path = part.dataset, part.path
    modality, sop_class = text(dataset, "Modality", path), text(dataset, "SOPClassUID", path)
    if modality != "CT" and (modality or sop_class not in (CT_IMAGE, *MULTI_FRAME_CT)):
        problem = f"is {shown_code(modality)}, not CT" if modality else "is missing, and this is no CT Image Storage"
        raise InputError(problem, source=path, field="Modality", hint="give a folder with one CT series")
    frames = number_of_frames(dataset, path)
    own, shared = (_items(part, keyword) for keyword in (PER_FRAME, SHARED))
    if not own and sop_class not in MULTI_FRAME_CT and frames == 1:
        return [parse_slice(dataset, path)]
    hint = "export the series again, or convert it to .nii.gz, for example with dcm2niix"
    if len(shared) > 1 or (not own and not shared):
        problem = f"a multi-frame file ({frames} frames) that does not say where its frames lie"
        raise InputError(problem, source=path, field="NumberOfFrames", hint=hint)
    if len(own or shared) != frames:
        problem = f"is {frames}, geometry is given for {len(own or shared)}"
        raise InputError(problem, source=path, field="NumberOfFrames", hint=hint)
    views = [FrameView(dataset, item, shared[0] if shared else None) for item in own or shared]
    return [_parse_frame(view, part, index) for index, view in enumerate(views)]


def _parse_frame(view: FrameView, part: Part10, index: int) -> SliceHeader:
    try:
        return parse_slice(view, part.path, index)
    except InputError as error:
        problem = f"frame {index + 1}: {error.problem}"
        raise InputError(problem, source=part.path, field=error.field, hint=error.hint) from None


def _items(part: Part10, keyword: str) -> list[Any]:
    try:
        return list(part.dataset.get(keyword) or ())
    except Exception:  # pydicom parses the sequence here, and what damaged ones raise is not one family
        problem = "the functional groups are damaged"
        raise InputError(problem, source=part.path, field=keyword, hint="export the series again") from None
