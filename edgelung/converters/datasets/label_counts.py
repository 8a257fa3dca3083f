"""Annotated nodules that no voxel answers: counted, named by their lines, and refused when there are many.

Such a nodule would be background: the network would be taught that it is none. So its scan is left out. A single one
may be a slip; many say that the coordinates are not those of these scans.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgelung.converters.datasets.labelled import LabelledScan, Outcome
from edgelung.converters.datasets.luna16 import ANNOTATIONS, LunaScan
from edgelung.converters.datasets.luna16_lists import name_lines
from edgelung.errors import InputError

__all__ = ["LabelCounts", "is_complete"]

MOST_OUTSIDE: Final = 0.1  # of the nodules
MOST_WITHOUT: Final = 0.25
FEW: Final = 2  # so many are left out whatever their share
WAY_OUT: Final = (
    "coordX, coordY and coordZ are LPS millimetres of these very scans: look for scans that were mirrored, moved or "
    "resampled, for x and z exchanged, or RAS; remove single rows that are wrong"
)


@dataclass(frozen=True)
class LabelCounts:
    """What became of the annotations of scans, by their lines in the lists.

    Attributes:
        nodules: Annotated nodules.
        outside: Those whose centre is outside of their scan.
        empty: Those with nothing denser than the threshold at their centre.
        cut: Those that reach beyond their scan, whose part within is labelled.
        look_alikes: Points that resemble nodules.
        strays: Those that are outside of their scan.
        left_out: Scans with a nodule that no voxel answers, which are not used.
    """

    nodules: int = 0
    outside: tuple[int, ...] = ()
    empty: tuple[int, ...] = ()
    cut: tuple[int, ...] = ()
    look_alikes: int = 0
    strays: tuple[int, ...] = ()
    left_out: int = 0

    def with_scan(self, scan: LunaScan, labelled: LabelledScan) -> LabelCounts:
        """These counts and those of one more scan."""
        outcomes = [] if labelled.outcomes is None else [Outcome(value) for value in labelled.outcomes]
        strays = [] if labelled.strays is None else [int(index) for index in labelled.strays]

        def lines(wanted: Outcome) -> tuple[int, ...]:
            found = zip(scan.nodules, outcomes, strict=True)
            return tuple(nodule.line for nodule, outcome in found if outcome is wanted)

        return LabelCounts(
            self.nodules + len(scan.nodules),
            self.outside + lines(Outcome.OUTSIDE),
            self.empty + lines(Outcome.EMPTY),
            self.cut + lines(Outcome.CUT),
            self.look_alikes + len(scan.look_alikes_lps_mm),
            self.strays + tuple(scan.look_alike_lines[index] if scan.look_alike_lines else 0 for index in strays),
            self.left_out + (not is_complete(labelled)),
        )

    def check(self, root: Path | str, of: int | None = None) -> None:
        """Refuse labels of which too many have no voxel.

        Args:
            root: The LUNA16 root, named in the error.
            of: All nodules, when those of some scans are still to come: it is known early when it will be too many.

        Raises:
            InputError: When more than two nodules and a tenth of all lie outside of their scan, or more than two and a
                quarter have no voxel for any reason.
        """
        total = self.nodules if of is None else of
        outside, without = len(self.outside), len(self.outside) + len(self.empty)
        if outside > max(FEW, MOST_OUTSIDE * total) or without > max(FEW, MOST_WITHOUT * total):
            raise self.refusal(root, total)

    def refusal(self, root: Path | str, of: int | None = None, *, consequence: str = "") -> InputError:
        """The error that names the nodules without a voxel; ``consequence`` says what follows from them."""
        problem = "; ".join(filter(None, (self._without(of or self.nodules), consequence)))
        return InputError(problem, source=Path(root) / ANNOTATIONS, hint=WAY_OUT)

    def notes(self) -> tuple[str, ...]:
        """One line for people for each kind of row that is not labelled, or not whole."""
        notes = []
        if self.left_out:
            one = "its" if len(self.outside) + len(self.empty) == 1 else "their"
            scans = f"{one} scan is" if self.left_out == 1 else f"their {self.left_out} scans are"
            notes.append(f"{ANNOTATIONS}: {self._without(self.nodules)}; {scans} left out")
        if self.cut:
            reach = f"{len(self.cut)} of {self.nodules:,} nodules reach beyond their scan{_named(self.cut)}"
            notes.append(f"{ANNOTATIONS}: {reach}; what lies within is labelled")
        if self.strays:
            lie = f"{len(self.strays):,} of {self.look_alikes:,} look-alikes lie outside of their scan"
            notes.append(f"candidates: {lie}{_named(self.strays)}; they are not used")
        return tuple(notes)

    def to_json(self) -> dict[str, int]:
        """Numbers alone, for training.json."""
        counted = {name: len(getattr(self, name)) for name in ("outside", "empty", "cut", "strays")}
        return {"nodules": self.nodules, "look_alikes": self.look_alikes, **counted, "scans_left_out": self.left_out}

    def _without(self, total: int) -> str:
        lines = tuple(sorted(self.outside + self.empty))
        kinds = ((self.outside, "outside of the volume"), (self.empty, "nothing as dense as a nodule there"))
        reasons = ", ".join(f"{words} ({len(found):,})" for found, words in kinds if found)
        have = "has" if len(lines) == 1 else "have"
        return f"{len(lines):,} of {total:,} nodules {have} no voxel in their scan{_named(lines)}: {reasons}"


def is_complete(labelled: LabelledScan) -> bool:
    """Whether a voxel answers each annotated nodule, so that what is not labelled is background."""
    return labelled.outcomes is None or not any(
        outcome in (Outcome.OUTSIDE, Outcome.EMPTY) for outcome in labelled.outcomes
    )


def _named(lines: tuple[int, ...]) -> str:
    known = sorted(line for line in lines if line)
    return f" ({name_lines(known)})" if known else ""
