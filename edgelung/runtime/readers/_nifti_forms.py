"""The place of a NIfTI-1 volume in the patient, from the one or two transforms that its header gives.

A header may hold a "qform" (a rotation as quaternion, with pixdim and an offset) and an "sform" (an affine matrix),
each with a code above 0 when it is given. Readers choose differently between them:

* nibabel 5.4: the sform if its code is above 0, else the qform if its code is, else pixdim about the centre of the box.
* ITK 5.4 (measured with SimpleITK 2.5.7): the sform if its columns are at right angles and (a) there is no qform, or
  (b) its code is 1, or (c) both are nearly the same; otherwise the qform; without either the index axes as LPS from 0.
  In (c) the axes are compared by the left singular vectors alone, which do not see a mirrored or exchanged axis. So a
  form that is mirrored about the first voxel counts as the same, and one that is mirrored about the box does not.

One file can so be mirrored in one program and not in the other. Here the forms themselves are compared: a form that is
given must be a right-angled grid with the spacing of pixdim, and two that are given must put the voxels at the same
place. Then every reader agrees and the sform, which has more digits, is taken. Anything else is refused.

NIfTI coordinates grow to the patient's right-to-left, posterior-to-anterior, inferior-to-superior (RAS); here they
become LPS.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import check_spacing, shown
from edgelung.runtime.readers._nifti_header import NiftiHeader
from edgelung.volume import Vector

__all__ = ["geometry"]

UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown (read as mm, like ITK), metre, millimetre, micrometre
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
LAST_CODE = 5  # NIFTI_XFORM_TEMPLATE_OTHER; nibabel takes a code above for 0, ITK for given
SAME_ANGLE = 1e-3  # radian. A quaternion in float32 is off by up to 7e-4: its scalar part is the root of a difference
SAME_OFFSET = 0.1  # of the shortest voxel edge
TINY_SCALAR = 1e-7  # square of the scalar part below which niftilib and ITK take it for 0

Form = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # unit columns and offset in mm, RAS

CHOOSE = (
    "look in a viewer which one is right and write the file with that alone, with nibabel: "
    "image.set_qform(image.get_sform()) or image.set_sform(image.get_qform()), then nibabel.save(image, 'new.nii.gz')"
)
DROP_SFORM = "if the qform is right, write the file without the sform, with nibabel: image.set_sform(None, 0)"
DROP_QFORM = "if the sform is right, write the file without the qform, with nibabel: image.set_qform(None, 0)"
PLACE = (
    "convert it from its DICOM again; or, if its rows run to the left and its columns to posterior, write it with "
    "SimpleITK, which takes that for granted: sitk.WriteImage(sitk.ReadImage(old), 'new.nii.gz')"
)


def geometry(header: NiftiHeader, source: Path) -> tuple[Vector, Vector, npt.NDArray[np.float64]]:
    """spacing_mm (depth, height, width), origin_mm LPS and direction, as :class:`CtVolume` has them.

    Raises:
        InputError: Units, spacing or a transform that are no CT grid; two transforms that differ, or none.
    """
    if header.units not in UNIT_MM:
        problem = f"{header.units} is no unit of length"
        raise InputError(problem, source=source, field="xyzt_units", hint="set it to 2 (millimetre)")
    unit = UNIT_MM[header.units]
    x_mm, y_mm, z_mm = (float(size) * unit for size in header.pixdim[1:4])
    spacing = check_spacing((z_mm, y_mm, x_mm), source=source, field="pixdim")
    has_sform, has_qform = _given(header, source)
    sform = _sform(header, spacing, unit, source, DROP_SFORM if has_qform else "") if has_sform else None
    qform = _qform(header, unit, source, DROP_QFORM if has_sform else "") if has_qform else None
    if sform and qform:
        _check_same(sform, qform, spacing, source)
    form = sform or qform
    if form is None:
        problem = "sform_code and qform_code are 0: the file does not say where the patient's left is"
        raise InputError(problem, source=source, field="sform_code", hint=PLACE)
    axes, offset = form
    x, y, z = (RAS_TO_LPS @ offset).tolist()
    return spacing, (x, y, z), (RAS_TO_LPS @ axes)[:, ::-1]


def _given(header: NiftiHeader, source: Path) -> tuple[bool, bool]:
    """Whether the sform and the qform are given."""
    for field, code in (("sform_code", header.sform_code), ("qform_code", header.qform_code)):
        if not 0 <= code <= LAST_CODE:
            problem = f"{code} is none of the codes 0 to {LAST_CODE}, which readers take for different things"
            hint = "look in a viewer whether the image lies right there, and write it again from that viewer"
            raise InputError(problem, source=source, field=field, hint=hint)
    return header.sform_code > 0, header.qform_code > 0


def _check_same(sform: Form, qform: Form, spacing: Vector, source: Path) -> None:
    """That two transforms put the same voxels at the same place.

    Axes may differ by SAME_ANGLE, which float32 quaternions do, and first voxels by SAME_OFFSET of a voxel.
    """
    field = "sform_code"
    cosines = np.einsum("ij,ij->j", sform[0], qform[0])  # of each axis with its namesake
    angle = float(np.degrees(2 * np.arcsin(np.clip(np.sqrt(np.clip((1 - cosines.min()) / 2, 0, 1)), 0, 1))))
    if angle > np.degrees(SAME_ANGLE):
        handed = np.linalg.det(sform[0]) * np.linalg.det(qform[0]) > 0
        how = f"turned by {angle:.3g} degrees" if handed else "mirrored: left and right, or front and back, exchanged"
        problem = f"sform and qform contradict each other ({how}), and readers choose differently"
        raise InputError(problem, source=source, field=field, hint=CHOOSE)
    apart = float(np.linalg.norm(sform[1] - qform[1]))
    if apart > SAME_OFFSET * min(spacing):
        problem = f"sform and qform contradict each other (shifted by {apart:.3g} mm), and readers choose differently"
        raise InputError(problem, source=source, field=field, hint=CHOOSE)


def _sform(header: NiftiHeader, spacing: Vector, unit: float, source: Path, way_out: str) -> Form:
    """Unit columns of an affine whose scale is ``spacing`` (depth, height, width), refused when sheared."""
    srow = _finite(header.srow, "srow", source, way_out).reshape(3, 4)
    matrix = srow[:, :3] * unit
    scale = np.linalg.norm(matrix, axis=0)
    if np.abs(scale[::-1] / spacing - 1.0).max() > 1e-3:
        problem = f"srow has voxels of {_size(scale[::-1])} mm, pixdim of {_size(spacing)} mm"
        hint = way_out or "correct the one that is wrong, or export the series again"
        raise InputError(problem, source=source, field="pixdim", hint=hint)
    axes: npt.NDArray[np.float64] = matrix / scale
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        hint = way_out or "resample to an upright grid first, for example with SimpleITK"
        raise InputError("the axes are sheared (not at right angles)", source=source, field="srow", hint=hint)
    return axes, srow[:, 3] * unit


def _qform(header: NiftiHeader, unit: float, source: Path, way_out: str) -> Form:
    """The rotation of a unit quaternion with a >= 0, given b, c, d (nifti1.h, METHOD 2), and the handedness "qfac"."""
    quatern = _finite(header.quatern, "quatern", source, way_out)
    qfac = header.pixdim[0]
    if not (qfac >= 0 or qfac == -1):
        problem = f"pixdim[0] is {qfac:g}: the handedness of the qform must be 1 or -1"
        raise InputError(problem, source=source, field="pixdim", hint=way_out or "export the series again")
    square = float(quatern[:3] @ quatern[:3])
    if square > 1.001:
        problem = "b, c, d are longer than a unit quaternion"
        raise InputError(problem, source=source, field="quatern", hint=way_out or "export the series again")
    scalar = max(0.0, 1.0 - square)
    if scalar < TINY_SCALAR:
        quatern[:3] /= square**0.5
        scalar = 0.0
    axes = _rotation(scalar**0.5, *quatern[:3].tolist())
    axes[:, 2] *= -1.0 if qfac < 0 else 1.0
    return axes, quatern[3:] * unit


def _rotation(a: float, b: float, c: float, d: float) -> npt.NDArray[np.float64]:
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )


def _finite(values: tuple[float, ...], field: str, source: Path, way_out: str) -> npt.NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        hint = way_out or "export the series again"
        raise InputError(f"holds {shown(list(values))}", source=source, field=field, hint=hint)
    return array


def _size(spacing: npt.ArrayLike) -> str:
    return " x ".join(f"{size:.6g}" for size in np.asarray(spacing).tolist())
