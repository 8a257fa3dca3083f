"""The way of a CT through a bundle: volume -> packed slices -> segmentation -> components -> findings."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung.boards import detect_board
from edgelung.bundle import Bundle, NetworkRecord, PipelineRecord, open_bundle
from edgelung.errors import BundleError, InputError
from edgelung.runtime.backends import REPLAY, SessionOptions, open_session, usable_backend
from edgelung.runtime.components import ComponentBuilder
from edgelung.runtime.findings import Finding, measure_findings
from edgelung.runtime.golden import check_golden, mismatch_hint
from edgelung.runtime.plane import plan_plane
from edgelung.runtime.plausibility import check_hounsfield
from edgelung.runtime.preprocess import SlicePacker, check_geometry
from edgelung.runtime.readers import read_series
from edgelung.runtime.result import CtResult
from edgelung.runtime.timing import StageClock
from edgelung.volume import CtVolume

__all__ = ["CTPipeline"]

KIND = "ct-nodule-segmentation"
ROLE = "segmentation"
THRESHOLDS = ("mask_probability", "min_diameter_mm")
OVERRIDE = "--allow-implausible (allow_implausible=True in Python) takes the numbers as they are"

Progress = Callable[[int, int], None]


class CTPipeline:
    """Takes CT series to findings with the networks of one bundle.

    Open it with :meth:`load`; it holds an engine until it is closed, and works as a context manager. It pickles as
    the bundle's path, so that worker processes open sessions of their own. One caller at a time. ::

        with CTPipeline.load("unet.bundle") as pipeline:
            result = pipeline("scan.mhd")
            for finding in result.findings:
                finding.center_lps_mm, finding.diameter_mm, finding.confidence

    Every failure is an exception: a result without findings means that all slices were looked at.
    """

    def __init__(self, bundle: Bundle, backend: str, options: SessionOptions) -> None:
        self._bundle = bundle
        self._options = options
        self._pipeline = _check_pipeline(bundle)
        self._network = self._pipeline.networks[ROLE]
        self._record: NetworkRecord = bundle.manifest.networks[self._network]
        self.backend = usable_backend(bundle, backend)
        self._session = open_session(bundle, self._network, self.backend, options)

    @classmethod
    def load(cls, bundle: str | os.PathLike[str], backend: str = "auto", *, threads: int = 0) -> CTPipeline:
        """Open a bundle.

        Args:
            bundle: Folder or zip file.
            backend: An engine of ``edgelung.runtime.BACKENDS``, or ``auto``.
            threads: CPU threads of one run; 0 leaves it to the engine.

        Raises:
            BundleError: When the bundle is incomplete, altered, too new or not made for this board.
            BackendUnavailableError: When no engine can run it here.
            BackendError: When the engine refuses the network.
            VerificationError: When the engine does not reproduce the golden output on this machine.
        """
        opened = open_bundle(bundle)
        try:
            pipeline = cls(opened, backend, SessionOptions(threads=threads))
        except BaseException:
            opened.close()
            raise
        try:
            pipeline.check_golden()
        except BaseException:
            pipeline.close()
            raise
        return pipeline

    def __enter__(self) -> CTPipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (os.path.abspath(self._bundle.source), self.backend, self._options.threads)  # noqa: PTH100

    def close(self) -> None:
        """Give back the engine and the bundle's private copy."""
        self._session.close()
        self._bundle.close()

    @property
    def bundle(self) -> Bundle:
        """The opened bundle."""
        return self._bundle

    @property
    def slices_per_run(self) -> int:
        """Output slices of one call of the engine."""
        return self._record.input.packing.outputs

    def __call__(
        self,
        series: str | os.PathLike[str] | CtVolume,
        *,
        spacing_mm: tuple[float, float, float] | None = None,
        progress: Progress | None = None,
        allow_implausible: bool = False,
    ) -> CtResult:
        """Find nodules in one series.

        Args:
            series: A path that :func:`edgelung.runtime.read_series` reads, or a volume.
            spacing_mm: (depth, height, width) spacing for a .npy file, which holds none.
            progress: Called with (slices done, slices in all) after every run.
            allow_implausible: Take numbers that do not look like Hounsfield units as they are; the result says so.

        Returns:
            Findings in descending order of confidence, with the times of all stages.

        Raises:
            InputError: When the series cannot be read, is not in Hounsfield units (see
                :mod:`edgelung.runtime.plausibility`) or the bundle is not meant for it.
            BackendError: When the engine fails.
        """
        clock = StageClock()
        if isinstance(series, CtVolume):
            volume, source = series, "volume"
        else:
            source = str(series)
            with clock.stage("read"):
                volume = read_series(series, spacing_mm=spacing_mm)
        axial, implausible = self._axial(volume, source, allow_implausible)
        threshold = self._pipeline.thresholds["mask_probability"]
        if self._record.output.quantity == "logit":
            threshold = math.log(threshold / (1.0 - threshold))
        builder = ComponentBuilder(axial.shape[1:])
        done = 0
        start = time.perf_counter()
        for run in self._runs(axial, source, clock):
            for values in run:
                with clock.stage("components"):
                    builder.add_slice(values, threshold)
            clock.add("frame", time.perf_counter() - start, calls=len(run))
            done += len(run)
            if progress is not None:
                progress(done, axial.shape[0])
            start = time.perf_counter()
        with clock.stage("measure"):
            components = builder.finish()
            findings = self._findings(components, axial)
        times = clock.times()
        return CtResult(findings, axial, components, times, self.backend, self._bundle.sha256, implausible)

    def check_golden(self) -> float:
        """Run the golden inputs here; see :func:`edgelung.runtime.golden.check_golden`."""
        if self.backend == REPLAY:  # it hands out the golden outputs themselves
            return check_golden(self._bundle, self._network, self._session, 0.0)
        artefact = self._bundle.artefact(self._network, self.backend, detect_board().platform)
        tolerance, hint = artefact.golden_tolerance, mismatch_hint(artefact)
        return check_golden(self._bundle, self._network, self._session, tolerance, hint=hint)

    def iter_probabilities(
        self, volume: CtVolume, *, allow_implausible: bool = False
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Probabilities slice by slice, in bounded memory.

        Args:
            volume: In any orientation; the slices are those of ``volume.to_axial()``, from its first to its last.
            allow_implausible: Take numbers that do not look like Hounsfield units as they are.

        Yields:
            (height, width) float32 in 0..1, a new array for every slice.
        """
        axial, _ = self._axial(volume, "volume", allow_implausible)
        for run in self._runs(axial, "volume", StageClock()):
            yield from (_sigmoid(run) if self._record.output.quantity == "logit" else run)

    def _axial(self, volume: CtVolume, source: str, allow_implausible: bool) -> tuple[CtVolume, str]:
        """The axial view, and what speaks against its numbers if that was allowed."""
        try:
            axial = volume.to_axial()
        except ValueError as error:
            raise InputError(str(error), source=source, field="direction", hint="reformat to axial slices") from None
        check_geometry(axial, self._record.input.in_plane, source)
        return axial, check_hounsfield(axial, source, allow=allow_implausible, override=OVERRIDE)

    def _runs(self, axial: CtVolume, source: str, clock: StageClock) -> Iterator[npt.NDArray[np.float32]]:
        """What the network says, run by run: (slices, height, width), tiles stitched and padding taken off."""
        spec = self._record.input
        depth, height, width = axial.shape
        plan = plan_plane((height, width), spec.tensor.plane, spec.in_plane, source)
        packer = SlicePacker(axial, spec, plan)
        for first in range(0, depth, spec.packing.outputs):
            slices = min(spec.packing.outputs, depth - first)
            with clock.stage("prepare", calls=slices):
                window = packer.window(first)
                tensors = [np.ascontiguousarray(window[np.newaxis, :, tile.rows, tile.columns]) for tile in plan.tiles]
            with clock.stage("infer", calls=slices):
                outputs = [self._session.run(tensor) for tensor in tensors]
            with clock.stage("stitch", calls=slices):
                stitched = np.empty((slices, *plan.padded), dtype=np.float32)
                for tile, output in zip(plan.tiles, outputs, strict=True):
                    stitched[:, tile.keep_rows, tile.keep_columns] = tile.kept(output[0, :slices])
                values = np.ascontiguousarray(plan.inner(stitched))
            yield values

    def _findings(self, components: Any, axial: CtVolume) -> tuple[Finding, ...]:
        (label,) = self._record.output.labels
        minimum = self._pipeline.thresholds["min_diameter_mm"]
        findings = measure_findings(components, axial, label=label, min_diameter_mm=minimum)
        if self._record.output.quantity == "probability":
            return findings
        return tuple(replace(item, confidence=float(_sigmoid(np.float32(item.confidence)))) for item in findings)


def _check_pipeline(bundle: Bundle) -> PipelineRecord:
    pipeline = bundle.manifest.pipeline
    if pipeline.kind != KIND:
        raise BundleError(f"holds a {pipeline.kind!r} pipeline, CTPipeline runs {KIND!r}", source=bundle.source)
    if set(pipeline.networks) != {ROLE}:
        raise BundleError(f"pipeline.networks must name exactly {ROLE!r}", source=bundle.source)
    if set(pipeline.thresholds) != set(THRESHOLDS):
        raise BundleError(f"pipeline.thresholds must be exactly {', '.join(THRESHOLDS)}", source=bundle.source)
    if not 0 < pipeline.thresholds["mask_probability"] < 1:
        raise BundleError("pipeline.thresholds.mask_probability must lie between 0 and 1", source=bundle.source)
    if pipeline.thresholds["min_diameter_mm"] < 0:
        raise BundleError("pipeline.thresholds.min_diameter_mm must not be negative", source=bundle.source)
    return pipeline


def _reopen(bundle: str, backend: str, threads: int) -> CTPipeline:
    return CTPipeline.load(bundle, backend, threads=threads)


def _sigmoid(values: npt.NDArray[np.float32] | np.float32) -> npt.NDArray[np.float32]:
    one = np.float32(1)
    return np.asarray(one / (one + np.exp(-np.asarray(values, dtype=np.float32))))
