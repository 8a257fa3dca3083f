"""The table of engines: which there are, and in what order ``auto`` tries them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgelung.boards import BoardProfile, detect_board
from edgelung.bundle import Bundle
from edgelung.errors import BackendUnavailableError, BundleError, InputError
from edgelung.runtime.backends import onnxruntime, replay, rknn
from edgelung.runtime.backends.protocol import Session, SessionOptions

__all__ = ["BACKENDS", "REPLAY", "Backend", "open_session", "usable_backend"]

REPLAY = replay.ENGINE  # the engine that only knows golden inputs, for tests


@dataclass(frozen=True)
class Backend:
    """One engine.

    Attributes:
        lacking: What it lacks on this machine, in words; empty when it can be used.
        open: Opens a network of a bundle.
        automatic: Whether ``auto`` may choose it.
    """

    lacking: Callable[[], str]
    open: Callable[[Bundle, str, SessionOptions], Session]
    automatic: bool = True


# In the order in which `auto` tries them.
BACKENDS: dict[str, Backend] = {
    rknn.ENGINE: Backend(rknn.lacking, rknn.RknnSession),
    onnxruntime.ENGINE: Backend(onnxruntime.lacking, onnxruntime.OnnxRuntimeSession),
    replay.ENGINE: Backend(replay.lacking, replay.ReplaySession, automatic=False),
}


def usable_backend(bundle: Bundle, name: str = "auto", board: BoardProfile | None = None) -> str:
    """Choose the engine for a bundle on this machine.

    Args:
        bundle: The bundle to run.
        name: An engine, or ``auto`` for the first usable one for which every network has an artefact.
        board: Where it runs; detected when not given.

    Raises:
        InputError: For an unknown name.
        BundleError: When the chosen engine's artefacts were not made for this board.
        BackendUnavailableError: When none can be used; tells for each what it lacks.
    """
    if name != "auto" and name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}", hint=f"choose auto, {', '.join(BACKENDS)}")
    platform = (board or detect_board()).platform
    if name != "auto":
        if reason := BACKENDS[name].lacking():
            raise BackendUnavailableError({name: reason}, hint="choose --backend auto to take what is there")
        _check_artefacts(bundle, name, platform)
        return name
    lacking: dict[str, str] = {}
    for engine, row in BACKENDS.items():
        if not row.automatic:
            continue
        try:
            lacking[engine] = row.lacking()
            if not lacking[engine]:
                _check_artefacts(bundle, engine, platform)
                return engine
        except BundleError as error:
            lacking[engine] = error.problem
    raise BackendUnavailableError(lacking, hint="pip install edgelung installs onnxruntime, which runs every bundle")


def open_session(bundle: Bundle, network: str, engine: str, options: SessionOptions | None = None) -> Session:
    """Open one network of a bundle with an engine that :func:`usable_backend` chose."""
    return BACKENDS[engine].open(bundle, network, options or SessionOptions())


def _check_artefacts(bundle: Bundle, engine: str, platform: str | None) -> None:
    if engine != replay.ENGINE:
        for network in bundle.manifest.networks:
            bundle.artefact(network, engine, platform)
