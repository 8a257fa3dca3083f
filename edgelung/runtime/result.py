"""What a pipeline returns, and its files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgelung.errors import InputError
from edgelung.runtime.components import Components
from edgelung.runtime.findings import Finding
from edgelung.runtime.outputs import draw_finding, draw_overview, findings_to_json, write_json, write_luna16_csv
from edgelung.runtime.png import write_png
from edgelung.runtime.timing import StageTime
from edgelung.volume import CtVolume

__all__ = ["CtResult", "prepare_output", "series_name"]

JSON_NAME, CSV_NAME, OVERVIEW_NAME = "findings.json", "findings.csv", "overview.png"
DRAWN_FINDINGS = 20  # pictures of single findings; the lists hold all of them

# Names that are public by design: LUNA16's anonymised series, and the phantoms of edgelung.calibration (UUID-derived
# UIDs, ITU-T X.667). Any other name may point to a patient.
_PUBLIC_NAME = re.compile(r"(1\.3\.6\.1\.4\.1\.14519\.5\.2\.1\.6279\.6001|2\.25)\.\d+")


@dataclass(frozen=True, eq=False)
class CtResult:
    """Findings of one series.

    Attributes:
        findings: In descending order of confidence; empty when every slice was searched and nothing found.
        volume: The series as axial slices, which indices of the findings count.
        components: All components of the mask, also those too small to be findings.
        times: Stage -> its times.
        backend: The engine that ran.
        bundle_sha256: Identity of the bundle.
        implausible: What speaks against Hounsfield units where that was allowed; empty for a plausible CT.
    """

    findings: tuple[Finding, ...]
    volume: CtVolume
    components: Components
    times: Mapping[str, StageTime]
    backend: str
    bundle_sha256: str
    implausible: str = ""

    def to_json(self, series_id: str) -> dict[str, Any]:
        """Plain data with geometry, findings, times and the identity of the bundle."""
        return {
            **findings_to_json(self.findings, self.volume, series_id=series_id),
            "backend": self.backend,
            "bundle_sha256": self.bundle_sha256,
            "implausible": self.implausible,
            "times": {name: asdict(time) for name, time in self.times.items()},
        }

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        series: str | os.PathLike[str] | None = None,
        series_id: str | None = None,
    ) -> dict[str, Any]:
        """Write pictures, findings.csv and, last, findings.json into a folder.

        Args:
            folder: Made when absent; files of an earlier result are replaced.
            series: The series' path, which names it when the name is public; see :func:`series_name`.
            series_id: Name of the series in the files, instead.

        Returns:
            The content of findings.json.

        Raises:
            InputError: When a file cannot be written or the name is not one line.
        """
        name = series_id if series_id is not None else series_name(self.volume, series)
        if not name.strip() or name.splitlines() != [name]:
            raise InputError("must be one line of text", field="series_id")
        target = Path(folder)
        report = self.to_json(name)
        prepare_output(target, overwrite=True)
        try:
            write_png(target / OVERVIEW_NAME, draw_overview(self.volume, self.findings, self.components))
            for finding in self.findings[:DRAWN_FINDINGS]:
                pixels = draw_finding(self.volume, self.components, finding)
                write_png(target / f"finding-{finding.id:03d}.png", pixels)
            write_luna16_csv(target / CSV_NAME, name, self.findings)
            write_json(target / JSON_NAME, report)
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror or error})", source=target) from None
        return report


def prepare_output(folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Make a folder ready for one result: no file of an earlier one is left to be taken for the new one's.

    Args:
        folder: Made when absent.
        overwrite: Remove the files of an earlier result instead of refusing.

    Raises:
        InputError: When it holds a result already, or cannot be written.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        mine = (target / JSON_NAME, target / CSV_NAME, target / OVERVIEW_NAME, *target.glob("finding-[0-9]*.png"))
        earlier = [path for path in mine if path.exists()]
        if earlier and not overwrite:
            raise InputError("holds findings already", source=target, hint="add --overwrite or choose another folder")
        for path in earlier:
            path.unlink()
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror or error})", source=target) from None


def series_name(volume: CtVolume, series: str | os.PathLike[str] | None = None) -> str:
    """A name that tells nothing of a patient: the public one of a LUNA16 or phantom file, else a hash of the voxels."""
    if series is not None:
        stem = Path(series).name.partition(".mh")[0]
        if _PUBLIC_NAME.fullmatch(stem):
            return stem
    return f"series-{hashlib.sha256(np.ascontiguousarray(volume.hu).data).hexdigest()[:12]}"
