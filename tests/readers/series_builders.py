"""Series files for the reader tests, and the one comparison with SimpleITK."""

import itertools
import struct
import warnings

import imagecodecs
import numpy as np
import pydicom
import SimpleITK
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.dataset import Dataset, FileMetaDataset

SECRETS = ("SECRET", "19010203", "1.2.826.0.1.3680043.8.498")  # what the built DICOM files hold and no message may
DTYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
AXIAL_XYZ = np.eye(3)


def oblique(seed=0, mirrored=False):
    """A direction matrix in ITK's order: column k is the LPS direction of index axis x, y, z."""
    matrix = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return matrix if (np.linalg.det(matrix) < 0) == mirrored else -matrix


def voxels(shape=(3, 4, 5), dtype="i2"):
    """Different values in every voxel, over the dtype's range."""
    count = int(np.prod(shape))
    if np.dtype(dtype).kind == "f":
        return np.linspace(-2048.5, 3071.25, count).astype(dtype).reshape(shape)
    info = np.iinfo(dtype)
    return np.array([info.min + i * ((info.max - info.min) // count) for i in range(count)], dtype).reshape(shape)


def image(hu=None, spacing=(0.6, 0.7, 2.5), origin=(-120.0, -90.5, -300.25), direction=None):
    """A SimpleITK image; spacing, origin and direction in its (x, y, z) order."""
    picture = SimpleITK.GetImageFromArray(voxels() if hu is None else hu)
    picture.SetSpacing([float(v) for v in spacing])
    picture.SetOrigin([float(v) for v in origin])
    picture.SetDirection(np.asarray(oblique() if direction is None else direction, float).ravel().tolist())
    return picture


def assert_same(volume, reference, atol_mm=1e-3):
    """That a CtVolume has the voxels of a SimpleITK image, every corner at the same place, the same spacing."""
    expected = SimpleITK.GetArrayFromImage(reference)
    assert volume.hu.dtype == expected.dtype
    assert volume.hu.flags.c_contiguous and volume.hu.dtype.isnative
    np.testing.assert_array_equal(volume.hu, expected)
    np.testing.assert_allclose(volume.spacing_mm, reference.GetSpacing()[::-1], rtol=1e-5)
    for ends in itertools.product(*((0, length - 1, length) for length in expected.shape)):
        there = reference.TransformContinuousIndexToPhysicalPoint([float(i) for i in ends[::-1]])
        np.testing.assert_allclose(volume.index_to_lps_mm(ends), there, atol=atol_mm)


def geometries():
    """(spacing, origin, direction) in ITK's order, any rotation, with and without mirroring."""
    matrices = hnp.arrays(np.float64, (3, 3), elements=st.floats(-1, 1)).filter(lambda m: abs(np.linalg.det(m)) > 0.05)
    spacing = st.tuples(*[st.floats(0.1, 10)] * 3)
    origin = st.tuples(*[st.floats(-1000, 1000)] * 3)
    return st.tuples(spacing, origin, matrices.map(lambda m: np.linalg.qr(m)[0]))


def write_mhd(path, hu=None, data=None, **changes):
    """An .mhd and its .raw by hand. ``changes``: field to text, None leaves the field out."""
    hu = voxels() if hu is None else hu
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "ElementSpacing": "0.6 0.7 2.5",
        "DimSize": " ".join(map(str, hu.shape[::-1])),
        "ElementType": "MET_SHORT",
        **changes,
    }
    name = fields.pop("ElementDataFile", path.with_suffix(".raw").name)
    lines = [f"{key} = {value}" for key, value in {**fields, "ElementDataFile": name}.items() if value is not None]
    path.write_bytes(("\n".join(lines) + "\n").encode())
    path.with_suffix(".raw").write_bytes(hu.tobytes() if data is None else data)
    return path


def nifti_bytes(hu=None, order="<", pad=b"\0" * 4, data=None, **changes):
    """A NIfTI-1 file by hand, from nifti1.h. ``changes``: its fields."""
    hu = voxels() if hu is None else hu
    codes = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}
    kind = f"{hu.dtype.kind}{hu.dtype.itemsize}"
    f = {
        "sizeof_hdr": (0, "i", (348,)),
        "dim": (40, "8h", (3, *hu.shape[::-1], 1, 1, 1, 1)),
        "datatype": (70, "h", (codes[kind],)),
        "bitpix": (72, "h", (8 * hu.dtype.itemsize,)),
        "pixdim": (76, "8f", (1, 0.6, 0.7, 2.5, 1, 1, 1, 1)),
        "vox_offset": (108, "f", (348 + len(pad),)),
        "scl_slope": (112, "f", (0,)),
        "scl_inter": (116, "f", (0,)),
        "xyzt_units": (123, "b", (2,)),
        "qform_code": (252, "h", (0,)),
        "sform_code": (254, "h", (1,)),
        "quatern": (256, "6f", (0, 0, 0, 0, 0, 0)),
        "srow": (280, "12f", (0.6, 0, 0, 10, 0, 0.7, 0, 20, 0, 0, 2.5, 30)),
        "magic": (344, "4s", (b"n+1\0",)),
    }
    header = bytearray(348)
    for name, (offset, form, values) in f.items():
        values = changes.pop(name, values)
        values = values if isinstance(values, tuple) else (values,)
        struct.pack_into(order + form, header, offset, *values)
    if changes:
        raise TypeError(f"unknown fields {sorted(changes)}")
    return bytes(header) + pad + (hu.astype(hu.dtype.newbyteorder(order)).tobytes() if data is None else data)


def dicom_slice(stored, position, direction=AXIAL_XYZ, spacing=(0.6, 0.7), syntax="1.2.840.10008.1.2.1", **changes):
    """One CT slice. ``spacing`` along x, y; ``changes``: keyword to value, None leaves the element out."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(SECRETS[2] + ".")
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "SOPInstanceUID": ds.file_meta.MediaStorageSOPInstanceUID,
        "StudyDate": SECRETS[1],
        "Modality": "CT",
        "PatientName": SECRETS[0] + "^NAME",
        "PatientID": SECRETS[0] + "-ID",
        "PatientBirthDate": SECRETS[1],
        "SeriesInstanceUID": SECRETS[2] + ".1",
        "StudyInstanceUID": SECRETS[2] + ".2",
        "SliceThickness": 2.5,
        "ImagePositionPatient": [float(f"{v:.8g}") for v in position],
        "ImageOrientationPatient": [float(f"{v:.10g}") for v in (*direction[:, 0], *direction[:, 1])],
        "PixelSpacing": [spacing[1], spacing[0]],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": 8 * stored.dtype.itemsize,
        "BitsStored": 8 * stored.dtype.itemsize,
        "HighBit": 8 * stored.dtype.itemsize - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        **changes,
    }
    pixels = values.pop("PixelData", stored.astype(stored.dtype.newbyteorder("<")).tobytes())
    for keyword, value in values.items():
        if value is not None:
            setattr(ds, keyword, value)
    if pixels is not None:
        ds.add_new("PixelData", "OB" if stored.dtype.itemsize == 1 else "OW", pixels)
    return ds


def write_dicom(ds, path):
    """Write as a DICOM Part 10 file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path


def dicom_series(folder, count=4, direction=AXIAL_XYZ, step=2.5, edit=None, stored=None):
    """A folder of slices, file names not in slice order. ``edit``: (index, data set) -> data set, None or several."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = voxels((count, 4, 6), "u2") // 32 if stored is None else stored
    for index, pixels in enumerate(stored):
        position = np.array([-120.0, -90.0, -300.0]) + index * step * direction[:, 2]
        ds = dicom_slice(pixels, position, direction)
        ds = edit(index, ds) if edit else ds
        if ds is not None:
            write_dicom(ds, folder / f"{(index * 7) % 11:03d}-{index}.dcm")
    return folder


def itk_series(folder):
    """A folder of slices as SimpleITK reads it."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


JPEG = "1.2.840.10008.1.2.4."


def _unsigned(stored):
    return stored.view(stored.dtype.str.replace("i", "u"))


def _rle(stored):
    """A DICOM RLE frame of literal runs: one segment a byte, the most significant first (DICOM PS3.5 annex G)."""
    planes = _unsigned(stored).astype(stored.dtype.newbyteorder(">")).reshape(-1, 1).view("u1").T
    segments = []
    for plane in planes:
        data = plane.tobytes()
        runs = (data[at : at + 128] for at in range(0, len(data), 128))
        segment = b"".join(bytes([len(run) - 1]) + run for run in runs)
        segments.append(segment + b"\0" * (len(segment) % 2))
    offsets = list(itertools.accumulate((len(segment) for segment in segments[:-1]), initial=64))
    return struct.pack("<16L", len(segments), *offsets, *[0] * (15 - len(segments))) + b"".join(segments)


def _jpeg_lossless(predictor=1):
    return lambda stored, bits: imagecodecs.jpeg8_encode(
        _unsigned(stored), lossless=True, predictor=predictor, bitspersample=8 * stored.dtype.itemsize
    )


def _jpeg2000(level=0):
    return lambda stored, bits: imagecodecs.jpeg2k_encode(
        stored, level=level, codecformat="j2k", reversible=level == 0, bitspersample=bits
    )


ENCODERS = {  # name: (transfer syntax, whether values stay exact, encoder of stored values with their bits)
    "RLE": ("1.2.840.10008.1.2.5", True, lambda stored, bits: _rle(stored)),
    "JPEG lossless, process 14": (JPEG + "57", True, _jpeg_lossless(6)),
    "JPEG lossless, process 14, predictor 4": (JPEG + "57", True, _jpeg_lossless(4)),
    "JPEG lossless, first order": (JPEG + "70", True, _jpeg_lossless(1)),
    "JPEG-LS": (JPEG + "80", True, lambda stored, bits: imagecodecs.jpegls_encode(_unsigned(stored))),
    "JPEG-LS, near 2": (JPEG + "81", False, lambda stored, bits: imagecodecs.jpegls_encode(_unsigned(stored), 2)),
    "JPEG 2000": (JPEG + "90", True, _jpeg2000()),
    "JPEG 2000, lossy": (JPEG + "91", False, _jpeg2000(60)),
    "JPEG extended": (JPEG + "51", False, lambda stored, bits: imagecodecs.jpeg8_encode(stored, 98, bitspersample=12)),
}

if hasattr(imagecodecs, "htj2k_encode"):  # not in the last imagecodecs for Python 3.10, which decodes it all the same
    ENCODERS |= {
        "HTJ2K": (JPEG + "201", True, lambda stored, bits: imagecodecs.htj2k_encode(stored, reversible=True)),
        "HTJ2K, RPCL": (JPEG + "202", True, lambda stored, bits: imagecodecs.htj2k_encode(stored, reversible=True)),
        "HTJ2K, lossy": (JPEG + "203", False, lambda stored, bits: imagecodecs.htj2k_encode(stored, reversible=False)),
    }


def compress(ds, frames, syntax, *, fragments=1, offsets=True):
    """Replace the pixels of a data set by compressed frames."""
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = pydicom.encaps.encapsulate(frames, fragments_per_frame=fragments, has_bot=offsets)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def chest(count=3, size=(40, 48), dtype="u2", seed=0):
    """Smooth slices with noise, as compressors know them: 12-bit values, signed ones with negative numbers."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:count, : size[0], : size[1]]
    values = 1500 + 900 * np.sin(x / 9 + z) * np.cos(y / 7) + rng.normal(0, 40, z.shape)
    return (values - (1600 if np.dtype(dtype).kind == "i" else 0)).round().astype(dtype)


ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
MACROS = {  # functional group: keywords of a single-frame slice that it takes
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "CTReconstructionSequence": ("ConvolutionKernel", "ReconstructionDiameter"),
    "CTXRayDetailsSequence": ("KVP",),
    "CTImageFrameTypeSequence": ("FrameType",),
    "FrameContentSequence": ("StackID", "TemporalPositionIndex", "FrameAcquisitionNumber", "FrameAcquisitionDateTime"),
    "CardiacSynchronizationSequence": ("NominalPercentageOfCardiacPhase",),
    "CTAcquisitionDetailsSequence": ("GantryDetectorTilt",),
}
PER_FRAME = ("PlanePositionSequence", "FrameContentSequence")


def enhanced(stored, positions=None, direction=AXIAL_XYZ, step=2.5, per_frame=PER_FRAME, edit=None, **changes):
    """One multi-frame CT. ``edit``: (index, values of a frame) -> None; ``per_frame``: groups not shared."""
    ds = dicom_slice(stored[0], (0, 0, 0), direction, SOPClassUID=ENHANCED_CT)
    ds.file_meta.MediaStorageSOPClassUID = ENHANCED_CT
    values = {element.keyword: element.value for element in ds}
    values["RescaleType"] = "HU"
    macros = {keyword: group for group, keywords in MACROS.items() for keyword in keywords}
    for keyword in macros:
        if keyword in ds:
            del ds[keyword]
    shared, frames = Dataset(), []
    for index in range(len(stored)):
        place = np.array([-120.0, -90.0, -300.0]) + index * step * direction[:, 2]
        own = dict(values, ImagePositionPatient=[float(f"{v:.8g}") for v in place], StackID="1")
        if positions is not None:
            own["ImagePositionPatient"] = list(positions[index])
        if edit:
            edit(index, own)
        frame = Dataset()
        for keyword, group in macros.items():
            if own.get(keyword) is None:
                continue
            target = frame if group in per_frame else shared
            if group not in target:
                setattr(target, group, [Dataset()])
            setattr(target[group].value[0], keyword, own[keyword])
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = frames
    ds.NumberOfFrames = len(stored)
    ds.PixelData = stored.tobytes()
    for keyword, value in changes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    return ds
