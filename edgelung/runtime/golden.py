"""Does an engine here say what the original network said there?"""

from __future__ import annotations

import numpy as np

from edgelung.bundle import Bundle
from edgelung.errors import VerificationError
from edgelung.runtime.backends import Session
from edgelung.runtime.preprocess import prepare_stack

__all__ = ["check_golden"]


def check_golden(bundle: Bundle, network: str, session: Session, tolerance: float) -> float:
    """Run the golden inputs of a network and compare with the golden outputs.

    Args:
        bundle: An opened bundle.
        network: Its name in the manifest.
        session: The network, opened.
        tolerance: Largest absolute difference, in the output's own unit.

    Returns:
        The largest absolute difference found.

    Raises:
        VerificationError: When it exceeds the tolerance: the engine, its driver or the machine computes wrongly.
    """
    spec = bundle.manifest.networks[network].input
    worst = 0.0
    for stack, output in bundle.golden(network):
        worst = max(worst, float(np.abs(session.run(prepare_stack(stack, spec)) - output).max()))
    if not worst <= tolerance:
        raise VerificationError(
            f"{session.engine}: the largest difference from the golden output of {network}",
            worst,
            tolerance,
            hint="update the engine and its driver, or choose another --backend",
        )
    return worst
