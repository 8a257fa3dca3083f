"""Opening a bundle: every file is hashed into a private folder, and only that folder is used afterwards."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import weakref
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from edgelung.bundle.artefact import MANIFEST_NAME, Artefact, FileRecord
from edgelung.bundle.manifest import Manifest, parse_manifest
from edgelung.errors import BundleError

__all__ = ["Bundle", "is_bundle", "open_bundle"]

MAX_MANIFEST_BYTES = 4 << 20
_BLOCK = 1 << 20
_REMAKE = "copy it again, or make it again with edgelung-convert"


class Bundle:
    """An opened bundle whose files were all checked against the manifest.

    Close it, or use it as a context manager, to remove its private copy.

    Attributes:
        manifest: The checked manifest.
        source: The bundle as the user named it.
        sha256: Of the manifest, which holds the hashes of all else: the identity of the bundle.
    """

    def __init__(self, manifest: Manifest, source: str, sha256: str, folder: Path) -> None:
        self.manifest = manifest
        self.source = source
        self.sha256 = sha256
        self._folder = folder
        self._cleanup = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the private copy."""
        self._cleanup()

    def path(self, record: FileRecord) -> Path:
        """The checked private copy of a file."""
        return self._folder / record.file

    def artefact(self, network: str, engine: str, platform: str | None = None) -> Artefact:
        """The artefact of a network for an engine on a SoC family.

        Raises:
            BundleError: When the bundle has none; says what it has.
        """
        artefacts = self.manifest.networks[network].artefacts
        for artefact in artefacts:
            if artefact.engine == engine and artefact.runs_on(platform):
                return artefact
        has = ", ".join(f"{artefact.engine} for {'/'.join(artefact.platforms)}" for artefact in artefacts)
        raise BundleError(
            f"{network} has no {engine} artefact for {platform or 'a machine without an NPU'} (it has: {has})",
            source=self.source,
            hint="convert again with the --target of this board, or run with --backend onnxruntime",
        )

    def golden(self, network: str) -> list[tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]]:
        """Golden inputs (slices, height, width) in HU and outputs in the network's output shape."""
        record = self.manifest.networks[network]
        stack = (record.input.packing.slices, *record.input.tensor.plane)
        return [
            (self._array(item.input, "int16", stack), self._array(item.output, "float32", record.output.tensor.shape))
            for item in record.golden
        ]

    def _array(self, record: FileRecord, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        try:
            array: npt.NDArray[Any] = np.load(self.path(record), mmap_mode="r", allow_pickle=False)
        except Exception:  # numpy parses Python text there: SyntaxError, TokenError, RecursionError and more
            problem = f"{record.file} is not a plain .npy array"
            raise BundleError(problem, source=self.source, hint=_REMAKE) from None
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            raise BundleError(f"{record.file} is {array.dtype}{array.shape}, not {dtype}{shape}", source=self.source)
        return np.array(array)


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether a folder or zip file has a manifest; nothing else is looked at."""
    source = Path(path)
    if source.is_dir():
        return (source / MANIFEST_NAME).is_file()
    try:
        with zipfile.ZipFile(source) as archive:
            return MANIFEST_NAME in archive.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return False


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle folder or zip file.

    Raises:
        BundleError: When it is missing, incomplete, altered, holds extra files or is too new.
    """
    source = Path(path)
    try:
        container: _Container = _Folder(source) if source.is_dir() else _Zip(source)
        with container:
            return _ingest(container, str(path))
    except OSError as error:
        raise BundleError(f"cannot be read ({error.strerror or error})", source=path) from None
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise BundleError(f"the zip file is damaged ({error})", source=path, hint=_REMAKE) from None


class _Container(Protocol):
    def __enter__(self) -> _Container: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def sizes(self) -> dict[str, int]: ...
    def open(self, name: str) -> IO[bytes]: ...


def _ingest(container: _Container, source: str) -> Bundle:
    sizes = container.sizes()
    if MANIFEST_NAME not in sizes:
        raise BundleError(
            f"has no {MANIFEST_NAME}: it is no bundle, or its conversion did not finish", source=source, hint=_REMAKE
        )
    if sizes.pop(MANIFEST_NAME) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{MANIFEST_NAME} is larger than {MAX_MANIFEST_BYTES} bytes", source=source)
    with container.open(MANIFEST_NAME) as file:
        content = file.read(MAX_MANIFEST_BYTES + 1)
    manifest = parse_manifest(content, source)
    records = {record.file: record for record in manifest.files()}
    for name in sorted(set(records) ^ set(sizes)):
        problem = f"{name} is missing" if name in records else f"{name} is not in the manifest"
        raise BundleError(problem, source=source, hint=_REMAKE)
    for name, record in records.items():
        if sizes[name] != record.size:
            raise BundleError(f"{name} has {sizes[name]} bytes, not {record.size}", source=source, hint=_REMAKE)
    folder = Path(tempfile.mkdtemp(prefix="edgelung-"))
    try:
        for record in records.values():
            _copy_checked(container, record, folder, source)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Bundle(manifest, source, hashlib.sha256(content).hexdigest(), folder)


def _copy_checked(container: _Container, record: FileRecord, folder: Path, source: str) -> None:
    digest = hashlib.sha256()
    left = record.size
    target = folder / record.file
    target.parent.mkdir(parents=True, exist_ok=True)
    with container.open(record.file) as reader, target.open("xb") as sink:
        while left > 0 and (block := reader.read(min(_BLOCK, left))):
            digest.update(block)
            sink.write(block)
            left -= len(block)
    if left or digest.hexdigest() != record.sha256:
        raise BundleError(f"{record.file} was altered (its hash is not the manifest's)", source=source, hint=_REMAKE)


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def sizes(self) -> dict[str, int]:
        sizes = {}
        for folder, _, names in os.walk(self._path, followlinks=False):
            for name in names:
                file = Path(folder, name)
                info = file.lstat()
                if not stat.S_ISREG(info.st_mode):
                    raise BundleError(f"{name} is not a plain file", source=self._path, hint=_REMAKE)
                sizes[file.relative_to(self._path).as_posix()] = info.st_size
        return sizes

    def open(self, name: str) -> IO[bytes]:
        # O_NOFOLLOW: a file that became a link since it was listed is refused.
        return os.fdopen(os.open(self._path / name, os.O_RDONLY | os.O_NOFOLLOW), "rb")


class _Zip:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise BundleError(f"is neither a bundle folder nor a zip file ({error})", source=path) from None

    def __enter__(self) -> _Zip:
        return self

    def __exit__(self, *exception: object) -> None:
        self._archive.close()

    def sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for entry in self._archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 0x1:
                raise BundleError(f"{entry.filename}: entries must be stored, not packed", source=self._path)
            if entry.filename in sizes:
                raise BundleError(f"{entry.filename} is there twice", source=self._path)
            sizes[entry.filename] = entry.file_size
        return sizes

    def open(self, name: str) -> IO[bytes]:
        try:
            return self._archive.open(name)
        except (ValueError, KeyError, RuntimeError) as error:  # a name that is no UTF-8, a second directory, a password
            problem = f"the zip file is damaged ({name}: {error})"
            raise BundleError(problem, source=self._path, hint=_REMAKE) from None
