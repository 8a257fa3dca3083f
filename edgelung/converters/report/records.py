"""What a report holds: one row per compiled variant, made from manifests and evaluations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgelung.bundle import LatencyRecord, LayerCounts, Manifest
from edgelung.converters.evaluation import METRICS, OperatingPoint

__all__ = ["EvaluationRecord", "Published", "Report", "ReportRow", "rows_of_manifest"]

FORMAT_VERSION = 1

_MARKUP = re.compile(r"[|<>\[\]`\x00-\x1f\x7f]")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Published:
    """Columns of a published report, beside which a row is shown; None is not known.

    Attributes:
        source: Whose they are, and on what the latency was measured.
        weight_memory_kib: As the toolkit prints it.
        model_size_kib: Of the file.
        latency_ms: Of one slice, measured there.
        pixel_recall: 0..1, on the data of that report.
        pixel_precision: 0..1, on the data of that report.
    """

    source: str
    weight_memory_kib: float | None = None
    model_size_kib: float | None = None
    latency_ms: float | None = None
    pixel_recall: float | None = None
    pixel_precision: float | None = None

    def __post_init__(self) -> None:
        _check_text("source", self.source)


@dataclass(frozen=True)
class EvaluationRecord:
    """How a variant answers to known nodules.

    Attributes:
        engine: What computed the answers.
        block: Slices that were evaluated on.
        nodules: How many.
        slices: How many different slices were answered.
        own: At the bundle's threshold; with differences to the original, but for the original itself.
        matched: At the threshold that keeps to the original's false-positive volume on another block.
        unmatched: Why there is no such threshold; empty otherwise.
    """

    engine: str
    block: str
    nodules: int
    slices: int
    own: OperatingPoint
    matched: OperatingPoint | None = None
    unmatched: str = ""

    def __post_init__(self) -> None:
        for name in ("engine", "block", "unmatched"):
            _check_text(name, getattr(self, name))
        for point in (self.own, self.matched):
            for values in (point.metrics, point.difference or point.metrics) if point else ():
                if set(values) != set(METRICS):
                    raise ValueError(
                        f"an operating point has the metrics {', '.join(METRICS)}, not {', '.join(values)}"
                    )


@dataclass(frozen=True)
class ReportRow:
    """One compiled variant.

    Attributes:
        name: Of the variant.
        target: What it was compiled for.
        precision: Arithmetic of its layers.
        parameters: Of the network; 0 where they are not known.
        weight_memory_kib: Constants as the engine holds them.
        model_size_kib: Of the file.
        layers: By kind.
        latency: Of one slice, with its source.
        bundle_sha256: Identity of the bundle it is from.
        verified: Whether it kept every limit of verification.
        evaluation: On nodules that are known.
        published: Columns to show beside it.
    """

    name: str
    target: str
    precision: Literal["fp32", "fp16", "int8"]
    parameters: int
    weight_memory_kib: float
    model_size_kib: float
    layers: LayerCounts
    latency: LatencyRecord
    bundle_sha256: str
    verified: bool
    evaluation: EvaluationRecord | None = None
    published: Published | None = None

    def __post_init__(self) -> None:
        for name in ("name", "target"):
            _check_text(name, getattr(self, name))
        if not self.name or not _SHA256.fullmatch(self.bundle_sha256):
            raise ValueError("a row has a name and the hash of its bundle")


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        title: Its heading.
        rows: The variants, the original first; no two with the same name and target.
        data: What was evaluated on, a sentence each.
        notes: What a reader must know to judge the figures, a sentence each.
        format_version: Of the file.
    """

    title: str
    rows: tuple[ReportRow, ...]
    data: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for text in (self.title, *self.data, *self.notes):
            _check_text("text", text)
        if self.format_version != FORMAT_VERSION:
            raise ValueError(f"format version {self.format_version} is not {FORMAT_VERSION}")
        if not self.rows:
            raise ValueError("a report has rows")
        if len({(row.name, row.target) for row in self.rows}) != len(self.rows):
            raise ValueError("two rows have the same name and target")


def rows_of_manifest(name: str, manifest: Manifest, bundle_sha256: str) -> tuple[ReportRow, ...]:
    """A row for each compiled network of a bundle.

    Args:
        name: Of the variant; with several networks theirs is added.
        manifest: Of the bundle.
        bundle_sha256: ``Bundle.sha256``.
    """
    several = len(manifest.networks) > 1
    return tuple(
        ReportRow(
            name=f"{name}, {network}" if several else name,
            target=artefact.target,
            precision=artefact.precision,
            parameters=record.parameters,
            weight_memory_kib=artefact.weight_memory_kib,
            model_size_kib=artefact.model_size_kib,
            layers=artefact.layers,
            latency=artefact.latency,
            bundle_sha256=bundle_sha256,
            verified=artefact.verified,
        )
        for network, record in manifest.networks.items()
        for artefact in record.artefacts
    )


def _check_text(name: str, text: str) -> None:
    """A report from a stranger is shown as Markdown: no markup, no line breaks."""
    if _MARKUP.search(text):
        raise ValueError(f"{name}: {text[:60]!r} holds a character that has a meaning in Markdown")
