"""Inference engines behind one Protocol: one small module each, one row each in a table."""

from edgelung.runtime.backends.protocol import Session, SessionOptions
from edgelung.runtime.backends.table import BACKENDS, REPLAY, Backend, open_session, usable_backend

__all__ = ["BACKENDS", "REPLAY", "Backend", "Session", "SessionOptions", "open_session", "usable_backend"]
