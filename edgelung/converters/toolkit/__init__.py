"""The vendor's toolkit, kept at a distance: environments of its own, a worker in a separate process, and its log read.

rknn-toolkit2 compiles for the RK3588's NPU. It wants older libraries than edgelung, it writes into the working
directory, and it can abort the process it runs in; docs/toolkit.md has the reasons and the measurements.
"""

from edgelung.converters.toolkit.device_log import DevicePerformance
from edgelung.converters.toolkit.driver import run_device_job, run_job
from edgelung.converters.toolkit.environments import (
    DEFAULT_VERSION,
    VERSIONS,
    ToolkitEnvironment,
    find,
    installed,
    remove,
)
from edgelung.converters.toolkit.install import install
from edgelung.converters.toolkit.job import DeviceJob, DeviceResult, Quantisation, ToolkitJob, ToolkitResult

__all__ = [
    # environments
    "DEFAULT_VERSION",
    "VERSIONS",
    "ToolkitEnvironment",
    "find",
    "install",
    "installed",
    "remove",
    # jobs
    "DeviceJob",
    "DevicePerformance",
    "DeviceResult",
    "Quantisation",
    "ToolkitJob",
    "ToolkitResult",
    "run_device_job",
    "run_job",
]
