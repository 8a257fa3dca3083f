"""Series from files, on the board: numpy and the standard library, pydicom for DICOM alone.

``read_series`` is the door. Each format is one module and one row in a table here. Every reader returns native-endian,
C-contiguous (depth, height, width) values as stored (clipping belongs to the manifest), LPS millimetres, and raises
InputError, with the way out, for everything that it cannot read exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

from edgelung.errors import InputError
from edgelung.runtime.readers.dicom import list_slices, read_dicom
from edgelung.runtime.readers.metaimage import read_metaimage
from edgelung.runtime.readers.nifti import read_nifti
from edgelung.runtime.readers.numpy_file import read_npy, read_npz
from edgelung.volume import CtVolume

__all__ = ["READABLE_SUFFIXES", "read_series"]


def _read_slice(path: Path) -> CtVolume:
    return read_dicom(path, [path])


READERS: dict[str, Callable[[Path], CtVolume]] = {
    ".mhd": read_metaimage,
    ".mha": read_metaimage,
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    ".npz": read_npz,
    ".dcm": _read_slice,
    ".dicom": _read_slice,
    ".ima": _read_slice,
}
NEEDS_SPACING = ".npy"
READABLE_SUFFIXES = (*READERS, NEEDS_SPACING)
SIMPLEITK = "sitk.WriteImage(sitk.ReadImage(old), 'new.mha')"
UNREADABLE: dict[str, str] = {
    ".nrrd": f"convert it with SimpleITK: {SIMPLEITK}",
    ".nhdr": f"convert it with SimpleITK: {SIMPLEITK}",
    ".hdr": f"convert it with SimpleITK: {SIMPLEITK}",
    ".img": f"convert it with SimpleITK: {SIMPLEITK}",
    ".raw": "give the .mhd header beside it",
    ".zraw": "give the .mhd header beside it",
}


def read_series(path: str | PathLike[str], *, spacing_mm: Sequence[float] | None = None) -> CtVolume:
    """Read one CT series.

    Args:
        path: A file that ends in one of :data:`READABLE_SUFFIXES`, or a folder with the slices of one DICOM series.
        spacing_mm: Voxel spacing along (depth, height, width) in millimetres; for .npy files, which cannot hold it, and
            for them alone.

    Returns:
        Values as stored, in Hounsfield units if the file's are, with their place in the patient.

    Raises:
        InputError: The file is missing, damaged, ambiguous or of a kind that is not read; names the file and field, and
            says the way out.
    """
    path = Path(path)
    try:
        if path.is_dir():
            suffix = ""
        elif path.is_file():
            suffix = _suffix(path)
        else:
            raise InputError("there is no such file or folder", source=path, hint="check the path")
        if suffix == NEEDS_SPACING:
            return read_npy(path, spacing_mm)
        if spacing_mm is not None:
            problem = "only an .npy file takes its spacing from the caller"
            raise InputError(problem, source=path, field="spacing_mm", hint="leave --spacing-mm out")
        return READERS[suffix](path) if suffix else _read_folder(path)
    except OSError as error:
        problem = f"cannot be read: {error.strerror or 'input error'}"
        raise InputError(problem, source=path, hint="check the file and its permissions") from None


def _suffix(path: Path) -> str:
    """The longest known ending of a file's name."""
    name = path.name.lower()
    known = [suffix for suffix in READABLE_SUFFIXES if name.endswith(suffix)]
    if known:
        return max(known, key=len)
    readable = ", ".join(READABLE_SUFFIXES)
    hint = UNREADABLE.get(path.suffix.lower(), f"convert it with SimpleITK: {SIMPLEITK}")
    raise InputError(f"this kind of file is not read (read are {readable} and DICOM folders)", source=path, hint=hint)


def _read_folder(folder: Path) -> CtVolume:
    slices = list_slices(folder)
    if slices:
        return read_dicom(folder, slices)
    volumes = [
        path for path in sorted(folder.iterdir()) if path.is_file() and path.name.lower().endswith(READABLE_SUFFIXES)
    ]
    hint = "give the folder that holds the slices themselves"
    if volumes:
        hint = f"give the file itself: {volumes[0]}" if len(volumes) == 1 else "give one of its files by name"
    raise InputError("the folder holds no DICOM slices", source=folder, hint=hint)
