"""Calibration data without patients: a seeded chest-CT phantom, and nodules inserted into real CTs.

Host side: needs scipy (``pip install "edgelung[convert]"``).
"""

from edgelung.calibration.holdout import Holdout
from edgelung.calibration.insertion import Insertion, insert_nodules
from edgelung.calibration.luna16_writer import DatasetSummary, write_luna16
from edgelung.calibration.lungs import segment_lungs
from edgelung.calibration.nodules import Nodule
from edgelung.calibration.phantom import Phantom, make_phantom
from edgelung.calibration.series import DataSource, describe_data, read_ct
from edgelung.calibration.sets import choose_held_out, choose_slabs, phantom_slabs
from edgelung.calibration.slabs import CalibrationSet, Provenance, Slab

__all__ = [
    # the phantom
    "Nodule",
    "Phantom",
    "make_phantom",
    # nodules in real CTs
    "Insertion",
    "insert_nodules",
    "segment_lungs",
    # calibration sets
    "CalibrationSet",
    "DataSource",
    "Holdout",
    "Provenance",
    "Slab",
    "choose_held_out",
    "choose_slabs",
    "describe_data",
    "phantom_slabs",
    "read_ct",
    # data sets on disk
    "DatasetSummary",
    "write_luna16",
]
