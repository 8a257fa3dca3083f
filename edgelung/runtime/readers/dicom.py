"""DICOM CT: a folder of single-frame slices, or one slice.

Needs pydicom 3 (``pip install "edgelung[dicom]"``), imported on the first call. All headers are read and checked before
memory is taken for the volume; then it is filled slice by slice.

No message holds a patient's or study's name, number, date or UID; pydicom's own warnings and log lines are silenced
while it reads, because they quote values. That switch is per process: read one DICOM series at a time per process.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import TRUNCATED, checked_volume
from edgelung.runtime.readers._slice_header import KEYWORDS, SliceHeader, check_is_ct, parse_slice
from edgelung.runtime.readers._slice_stack import stack_slices
from edgelung.volume import CtVolume

__all__ = ["list_slices", "read_dicom"]

PIXEL_KEYWORDS = (*KEYWORDS, "PixelData")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
NO_PREAMBLE = (b"\x08\x00", b"\x02\x00", b"\x00\x08")  # first group of a data set written without its preamble
DICOMDIR = "1.2.840.10008.1.3.10"
DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.8.1")
MAX_META_BYTES = 1 << 16  # of group 0002, which has some 200
MAX_FILE_BYTES = 1 << 29  # 8192 x 8192 pixels of 32 bits, twice
DECODERS = "pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg (or python-gdcm)"


def list_slices(folder: Path) -> list[Path]:
    """Files of a folder that are DICOM, or claim to be, by name. Sub-folders and hidden files are left alone.

    A file counts when it has the DICOM preamble, a DICOM name, or starts like a data set without preamble.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        with path.open("rb") as file:
            start = file.read(132)
        if start[128:] == b"DICM" or path.suffix.lower() in DICOM_SUFFIXES or start[:2] in NO_PREAMBLE:
            found.append(path)
    return found


def read_dicom(source: Path, files: Sequence[Path]) -> CtVolume:
    """Read one CT series.

    Args:
        source: The folder, or the single file, as the user named it.
        files: Its DICOM files in any order; a DICOMDIR among them is left out.

    Returns:
        HU = stored * RescaleSlope + RescaleIntercept, each slice with its own. Whole numbers come as int16 when all
        values fit and as int32 otherwise; with a fractional slope or intercept anywhere all slices are float32.
        Values outside the scan (such as -2048) are kept. Depth grows along the normal, the cross product of the
        row and column directions; its spacing is the mean distance of the slices.

    Raises:
        InputError: Naming the folder or file and the DICOM field.
    """
    pydicom = _pydicom()
    with _quiet():
        datasets = {}
        for path in files:
            syntax = _transfer_syntax(pydicom, path)
            if syntax != DICOMDIR:
                datasets[path] = (_read(pydicom, path, KEYWORDS, stop_before_pixels=True), syntax)
        if not datasets:
            problem = "holds a DICOMDIR but no slices"
            raise InputError(problem, source=source, hint="give the folder that holds the slices")
        _check_one_series([dataset for dataset, _ in datasets.values()], source)
        headers = []
        for path, (dataset, syntax) in datasets.items():
            check_is_ct(dataset, path)
            header = parse_slice(dataset, path)
            _check_decodable(pydicom, header, syntax)
            headers.append(header)
        stack = stack_slices(headers, source)
        hu = _fill(pydicom, stack.slices, stack.shape, source)
    return checked_volume(hu, stack.spacing_mm, stack.origin_mm, stack.direction, source=source)


def _pydicom() -> ModuleType:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise InputError("reading DICOM needs pydicom 3", hint='pip install "edgelung[dicom]"') from None
    return pydicom


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _read(pydicom: ModuleType, path: Path, keywords: tuple[str, ...], *, stop_before_pixels: bool) -> Any:
    """The named elements of one file. From memory, where a false length cannot ask for more than the file has."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        problem = f"{size >> 20} MiB are more than one CT slice can have"
        raise InputError(problem, source=path, hint="give one file per slice")
    data = io.BytesIO(path.read_bytes())
    try:
        return pydicom.dcmread(data, specific_tags=list(keywords), stop_before_pixels=stop_before_pixels)
    except Exception:  # what pydicom raises on damaged files is not one family, and its text quotes values
        raise InputError("the DICOM data set is damaged", source=path, hint=TRUNCATED) from None


def _transfer_syntax(pydicom: ModuleType, path: Path) -> str:
    """The transfer syntax UID of a file, or DICOMDIR."""
    with path.open("rb") as file:
        start = file.read(MAX_META_BYTES)
    try:
        if start[128:132] != b"DICM":
            raise ValueError
        # Not read_file_meta_info: on an open file, a false length asks for 4 GiB.
        data = io.BytesIO(start[132:])
        meta = pydicom.filereader.read_dataset(data, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
        syntax, media = str(meta.get("TransferSyntaxUID", "")), str(meta.get("MediaStorageSOPClassUID", ""))
    except Exception:
        problem = "this is not a DICOM file, or its first bytes are missing"
        raise InputError(problem, source=path, hint="remove it from the folder, or export the series again") from None
    if media == DICOMDIR:
        return DICOMDIR
    if not syntax:
        raise InputError("is missing", source=path, field="TransferSyntaxUID", hint="export the series again")
    if syntax in DEFLATED:
        problem = "deflated files are not read, their size cannot be bounded"
        raise InputError(
            problem, source=path, field="TransferSyntaxUID", hint="convert with dcmconv +te or gdcmconv --raw"
        )
    return syntax


def _check_one_series(datasets: Sequence[Any], source: Path) -> None:
    try:
        counts = Counter(str(dataset.get("SeriesInstanceUID") or "") for dataset in datasets)
    except Exception:
        counts = Counter({"": 1})
    field = "SeriesInstanceUID"
    if "" in counts:
        problem = f"{counts['']} of {len(datasets)} files do not say which series they belong to"
        raise InputError(problem, source=source, field=field, hint="export the series again")
    if len(counts) > 1:
        sizes = ", ".join(str(count) for _, count in counts.most_common(5)) + (", ..." if len(counts) > 5 else "")
        problem = f"{len(counts)} series in one folder ({sizes} files)"
        raise InputError(problem, source=source, field=field, hint="put each series in a folder of its own")


def _check_decodable(pydicom: ModuleType, header: SliceHeader, syntax: str) -> None:
    """Refuse what cannot be decoded here, or cannot be whole, before memory is taken."""
    uid = pydicom.uid.UID(syntax)
    name = str(uid.name) if uid.name != syntax else "a private one"
    try:
        decodable = bool(pydicom.pixels.get_decoder(uid).is_available)
    except NotImplementedError:
        decodable = False
    if not decodable:
        hint = f"{DECODERS}, or convert the series with gdcmconv --raw"
        raise InputError(f"{name} cannot be decoded here", source=header.path, field="TransferSyntaxUID", hint=hint)
    held = header.path.stat().st_size
    if not uid.is_encapsulated and held < header.stored_bytes:
        problem = f"{header.rows} x {header.columns} pixels need {header.stored_bytes} bytes, the file has {held}"
        raise InputError(problem, source=header.path, field="PixelData", hint=TRUNCATED)


def _fill(
    pydicom: ModuleType, slices: Sequence[SliceHeader], shape: tuple[int, int, int], source: Path
) -> npt.NDArray[Any]:
    whole = all(header.whole_numbers for header in slices)
    stored = _decode(pydicom, slices[0])  # before memory is taken: a first slice that cannot be decoded ends it here
    try:
        volume: npt.NDArray[Any] = np.empty(shape, np.int16 if whole else np.float32)
        for index, header in enumerate(slices):
            stored = stored if index == 0 else _decode(pydicom, header)
            if not whole:
                volume[index] = stored * header.slope + header.intercept
                continue
            ends = [int(end) * int(header.slope) + int(header.intercept) for end in (stored.min(), stored.max())]
            if volume.dtype == np.int16 and not _fits(ends, np.int16):
                volume = volume.astype(np.int32)
            if not _fits(ends, np.int32):
                problem = f"values up to {max(ends, key=abs)} are no Hounsfield units"
                raise InputError(problem, source=header.path, field="RescaleSlope", hint="export the series again")
            # Arithmetic modulo 2**bits is exact here: the ends show that every result fits.
            target = volume[index]
            target[...] = stored.astype(target.dtype)
            target *= np.array(int(header.slope)).astype(target.dtype)
            target += np.array(int(header.intercept)).astype(target.dtype)
    except MemoryError:
        problem = f"no memory for {shape[0]} slices"
        raise InputError(problem, source=source, hint="crop or split the series") from None
    return volume


def _fits(ends: Sequence[int], kind: type[np.integer[Any]]) -> bool:
    return min(ends) >= np.iinfo(kind).min and max(ends) <= np.iinfo(kind).max


def _decode(pydicom: ModuleType, header: SliceHeader) -> npt.NDArray[Any]:
    """(rows, columns) stored values, with unused high bits cleared or sign-extended."""
    dataset = _read(pydicom, header.path, PIXEL_KEYWORDS, stop_before_pixels=False)
    field = "PixelData"
    try:
        data = dataset.get(field)
        held = len(data) if data is not None else 0
        native = not pydicom.uid.UID(dataset.file_meta.TransferSyntaxUID).is_encapsulated
    except Exception:
        held, native = 0, True
    needed = header.stored_bytes
    if native and not needed <= held <= needed + needed % 2:
        problem = f"{header.rows} x {header.columns} pixels need {needed} bytes, the file has {held}"
        raise InputError(problem, source=header.path, field=field, hint=TRUNCATED)
    try:
        stored: npt.NDArray[Any] = pydicom.pixels.pixel_array(dataset, raw=True)
    except Exception:  # decoders raise what they like, and their text quotes values
        raise InputError("cannot be decoded", source=header.path, field=field, hint=TRUNCATED) from None
    if stored.shape != (header.rows, header.columns) or stored.dtype.kind not in "iu":
        raise InputError("does not decode to one slice", source=header.path, field=field, hint=TRUNCATED)
    return stored
