"""Writing a bundle: complete or absent."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from edgelung.bundle.artefact import MANIFEST_NAME, FileRecord
from edgelung.bundle.manifest import Manifest
from edgelung.bundle.reader import is_bundle
from edgelung.errors import BundleError

__all__ = ["BundleWriter"]

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # equal bundles are equal bytes


class BundleWriter:
    """Collects the files of a bundle beside its final place and moves them there in one step.

    Use it as a context manager; leaving without :meth:`finish` removes everything that was written. ::

        with BundleWriter(path) as writer:
            record = writer.add_array("golden/unet/input-0.npy", slices)
            writer.finish(manifest)

    Args:
        path: The bundle to make: a folder, or one file when the name ends in ``.zip``.
        overwrite: Replace a bundle that is there. A folder that is no bundle is never replaced.

    Raises:
        BundleError: When the place is taken or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self._zip = self.path.suffix == ".zip"
        self._overwrite = overwrite
        self._records: dict[str, FileRecord] = {}
        self._check_place()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stage = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.partial-", dir=self.path.parent))
        except OSError as error:
            raise BundleError(f"cannot write there ({error.strerror})", source=self.path) from None

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._stage, ignore_errors=True)
        if isinstance(error, OSError):
            raise BundleError(
                f"could not be written ({error.strerror or error})", source=self.path, hint="nothing was left behind"
            ) from error

    def stage_file(self, name: str) -> Path:
        """Where to write a file of the bundle before :meth:`add_staged` takes it in."""
        target = self._stage / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def add_staged(self, name: str) -> FileRecord:
        """Take in a file that was written to :meth:`stage_file`; returns its record for the manifest."""
        digest = hashlib.sha256()
        with (self._stage / name).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
            size = file.tell()
            os.fsync(file.fileno())
        self._records[name] = record = FileRecord(name, digest.hexdigest(), size)
        return record

    def add_array(self, name: str, array: npt.NDArray[np.generic]) -> FileRecord:
        """Store an array as .npy; returns its record for the manifest."""
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
        self.stage_file(name).write_bytes(buffer.getvalue())
        return self.add_staged(name)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest and move the bundle to its place.

        Raises:
            BundleError: When the manifest and the files disagree, or the place was taken meanwhile.
        """
        listed = {record.file: (record.sha256, record.size) for record in manifest.files()}
        added = {name: (record.sha256, record.size) for name, record in self._records.items()}
        if listed != added:
            odd = sorted(set(listed.items()) ^ set(added.items()))[0][0]
            raise BundleError(f"the manifest and the files disagree about {odd}", source=self.path)
        with (self._stage / MANIFEST_NAME).open("xb") as file:
            file.write(manifest.to_bytes())
            file.flush()
            os.fsync(file.fileno())
        self._check_place()
        if self._zip:
            packed = self._stage / ".zip"
            _pack(self._stage, [*added, MANIFEST_NAME], packed)
            packed.replace(self.path)
            return
        self._stage.chmod(0o755)
        if self.path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.old-", dir=self.path.parent))
            self.path.rename(old / "bundle")
            self._stage.rename(self.path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            self._stage.rename(self.path)

    def _check_place(self) -> None:
        if not self.path.exists():
            return
        is_empty = self.path.is_dir() and not any(self.path.iterdir())
        if is_empty and not self._zip:
            return
        if not is_bundle(self.path):
            raise BundleError("is there already and is no bundle", source=self.path, hint="choose another place")
        if not self._overwrite:
            raise BundleError("is there already", source=self.path, hint="add --overwrite or choose another place")


def _pack(folder: Path, names: list[str], target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.external_attr = 0o644 << 16
            with (folder / name).open("rb") as source, archive.open(entry, "w", force_zip64=True) as sink:
                shutil.copyfileobj(source, sink)
    with target.open("rb") as file:
        os.fsync(file.fileno())
