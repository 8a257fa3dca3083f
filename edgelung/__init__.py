"""edgelung: lung-imaging networks from PyTorch to RK3588 boards.

``edgelung.runtime`` runs on the board (numpy and one inference engine); ``edgelung.converters`` runs on the host.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
