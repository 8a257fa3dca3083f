"""Compare an engine's outputs with the golden outputs, which the original network gave."""

from __future__ import annotations

import numpy as np

from edgelung.boards import describe_processor
from edgelung.bundle import Artefact, Bundle
from edgelung.errors import VerificationError
from edgelung.runtime.backends import Session
from edgelung.runtime.preprocess import prepare_stack

__all__ = ["check_golden", "mismatch_hint"]

UPDATE = "update the engine and its driver, or choose another --backend"


def check_golden(bundle: Bundle, network: str, session: Session, tolerance: float, *, hint: str = UPDATE) -> float:
    """Run the golden inputs of a network and compare with the golden outputs.

    Args:
        bundle: An opened bundle.
        network: Its name in the manifest.
        session: The network, opened.
        tolerance: Largest absolute difference, in the output's own unit.
        hint: What to do about a mismatch.

    Returns:
        The largest absolute difference found.

    Raises:
        VerificationError: When it exceeds the tolerance: the engine, its driver or the machine computes wrongly.
    """
    spec = bundle.manifest.networks[network].input
    off = [np.abs(session.run(prepare_stack(stack, spec)) - output).max() for stack, output in bundle.golden(network)]
    worst = float(np.max(off))  # NaN stays NaN and is refused
    if not worst <= tolerance:
        where = f"of {network} on {describe_processor()}"
        metric = f"{session.engine}: the largest difference from the golden output {where}"
        raise VerificationError(metric, worst, tolerance, hint=hint)
    return worst


def mismatch_hint(artefact: Artefact) -> str:
    """What to do when an artefact does not reproduce its golden output on this machine."""
    if artefact.engine != "onnxruntime" or artefact.precision != "int8":
        return UPDATE
    if artefact.processor is None:  # written before int8 files were made safe for every processor
        return "an int8 file of this age is wrong on x86 processors without VNNI: convert the network again"
    return f"the file was verified on {artefact.processor}; update onnxruntime, or convert the network again"
