"""A bundle in plain data, for people and scripts."""

from __future__ import annotations

from typing import Any

from edgelung._codec import to_json
from edgelung.bundle.reader import Bundle

__all__ = ["describe"]


def describe(bundle: Bundle) -> dict[str, Any]:
    """The manifest as plain data, with all artefacts of all networks as one flat list under ``artefacts``."""
    data: dict[str, Any] = to_json(bundle.manifest)
    artefacts = [
        {"network": name, **artefact}
        for name, network in data["networks"].items()
        for artefact in network.pop("artefacts")
    ]
    return {**data, "sha256": bundle.sha256, "artefacts": artefacts}
