"""A toolkit environment with a stand-in for rknn-toolkit2, which does what the text of its "ONNX file" says.

The environment is a real virtual environment, and the worker is the real one; only the package ``rknn`` is not, nor the
adb in it. Boards do what the text of the "compiled network" says; their log is in the layout of published ones.
"""

import importlib.metadata
import os
import sys
import time
import venv
from pathlib import Path

import numpy as np

from edgelung.converters.toolkit.environments import ToolkitEnvironment, write_state

LOGS = Path(__file__).with_name("logs")
BOARD_LOG = LOGS / "made-up-board.log"
VERSION = "2.3.2"

FAKE_API = r"""
import ctypes, errno, json, os, signal, struct, subprocess, sys, time
from pathlib import Path

LOG = Path({log!r})


def container(platform):
    network = b"\0\0\0\0RKNN" + bytes(56)
    rest = {{"size": [1, 1, 2, 2], "dtype": {{"vx_type": ""}}}}
    tensors = [{{"tensor_id": n, "url": name, **rest}} for n, name in enumerate("xy")]
    graph = [{{"left": side, "left_tensor_id": 0, "right_tensor_id": n}} for n, side in enumerate(("input", "output"))]
    text = json.dumps({{"version": "2.3.2", "target_platform": [platform], "norm_tensor": tensors, "graph": graph,
                       "input_num": 1, "output_num": 1}}).encode()
    return struct.pack("<8sQQ40s", b"RKNN", 6, len(network), b"") + network + struct.pack("<Q", len(text)) + text


class RKNN:
    def __init__(self, verbose=False):
        assert verbose

    def release(self):
        pass

    def config(self, **options):
        Path("options.json").write_text(json.dumps(options))
        return 0

    def load_onnx(self, model):
        Path("net.model").write_text(Path(model).read_text())
        self.words = Path(model).read_text().split()
        return -1 if "unloadable" in self.words else 0

    def build(self, do_quantization, dataset=None):
        Path("check0_dropped.onnx").write_text("")
        if do_quantization:
            import numpy as np
            rows = [line.split() for line in Path(dataset).read_text().splitlines()]
            Path("means.json").write_text(json.dumps([[float(np.load(name).mean()) for name in row] for row in rows]))
        return self.go()

    def hybrid_quantization_step1(self, dataset):
        Path("net.data").write_text("")
        Path("net.quantization.cfg").write_text("custom_quantize_layers: {{}}\nquantize_parameters:\n")
        return 0

    def hybrid_quantization_step2(self, model_input, data_input, model_quantization_cfg):
        if hasattr(self, "words"):
            return -1  # as 2.5.0 does where load_onnx was called before
        self.words = Path(model_input).read_text().split()
        return self.go()

    def go(self):
        words = self.words
        print("\x1b[1;33mW\x1b[0m build: careful\x1b[0m", flush=True)
        sys.stderr.write("I Quantizating :   0%|  | 0/2\rI Quantizating :  50%|# | 1/2\r")
        if "abort" in words:
            ctypes.CDLL(None).printf(b"E RKNN: [00:00:00.000] Meet unsupported Operator: Odd\n")
            os.abort()
        if "killed" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in words:
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            Path("child.pid").write_text(str(child.pid))
            time.sleep(600)
        if "raise" in words:
            raise ValueError("Traceback (most recent call last):\n  File \"x.py\"\nBadThing: no such thing")
        if "refuse" in words:
            print("E build: Invalid node: head/Conv", file=sys.stderr)
            return -1
        if "full" in words:
            raise OSError(errno.ENOSPC, "No space left on device")
        if "quietly-full" in words:
            print("E build: OSError: [Errno 28] No space left on device: 'check.rknn'")
            return -1
        if "vanish" in words:
            os._exit(0)
        if "rubbish" in words:
            Path("result.json").write_text("[1, 2")
            os._exit(0)
        if "liar" in words:
            lie = {{"schema": 1, "stage": "build", "refusal": "", "peak_memory_kib": 1}}
            Path("result.json").write_text(json.dumps(lie))
            os._exit(0)
        if "slow" in words:
            time.sleep(1)
        lines = [line for line in LOG.read_text().split("\n") if not line.startswith("edgelung-stage:")]
        print("" if "untold" in words else "\n".join(lines))
        return 0

    def export_rknn(self, path):
        platform = "rk3566" if "other-chip" in self.words else "rk3588"
        content = container(platform)
        if "unexported" not in self.words:
            Path(path).write_bytes(content[:-5] if "cut" in self.words else content)
        return 0

    def load_rknn(self, path):
        self.words = Path(path).read_text().split()
        return -1 if "unreadable" in self.words else 0

    def init_runtime(self, target=None, device_id=None, **debug):
        self.debug = debug
        if target is None:
            return 0
        with open("sessions.jsonl", "a") as file:
            file.write(json.dumps([target, device_id, debug]) + "\n")
        if "no-server" in self.words:
            print("E init_runtime: The rknn_server on the concected device is abnormal", flush=True)
            raise ValueError("Traceback (most recent call last):\nRuntimeError")
        if "hang" in self.words:
            time.sleep(600)
        return -1 if "refused" in self.words else 0

    def get_sdk_version(self):
        return "=====\nRKNN VERSION:\n  DRV: rknn_server: 2.3.2\n  DRV: rknnrt: 2.3.2\n====="

    def eval_perf(self, is_print, fix_freq):
        assert is_print and fix_freq and self.debug == {{"perf_debug": True}}
        if "gone" in self.words:
            os.abort()
        text = Path({board_log!r}).read_text()
        for word in self.words:
            name, _, value = word.partition("=")
            if name == "replace":
                old, new = json.loads(bytes.fromhex(value))
                text = text.replace(old, new)
        print("\x1b[1;33mWarning: just for debugging\x1b[0m\n" + text)

    def eval_memory(self, is_print):
        assert self.debug == {{"eval_mem": True}}
        return None if "forgetful" in self.words else {{"weight_memory": 2048, "total_memory": 4096}}

    def inference(self, inputs, data_format):
        assert data_format == ["nchw"] * len(inputs)
        if "mute" in self.words:
            return None
        for word in self.words:
            if word.startswith("answer="):
                import numpy as np
                return [np.load(bytes.fromhex(word.partition("=")[2]).decode())]
        first = inputs[0] * 2
        return [first.astype("float64") if "double" in self.words else first, inputs[-1].mean(keepdims=True)]
"""

# It starts a server that leaves the process group, as adb does, when it is told to.
FAKE_ADB = r"""#!{python} -I
import json, os, socket, subprocess, sys
from pathlib import Path

assert sys.argv[1:] == ["devices"]
Path("adb-env.json").write_text(json.dumps(dict(os.environ)))
words = Path(json.loads(Path("job.json").read_text())["model"]).read_text().split()
if "broken-adb" in words:
    sys.exit("error: cannot connect to daemon")
if "serve" in words:
    server = '''
import os, socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    Path = __import__("pathlib").Path
    Path("server.pid").write_text(str(os.getpid()))
    while True:
        client, _ = server.accept()
        if client.recv(100) == b"0009host:kill":
            client.sendall(b"OKAY")
            break
'''
    quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    port = os.environ["ANDROID_ADB_SERVER_PORT"]
    subprocess.Popen([sys.executable, "-I", "-c", server, port], start_new_session=True, **quiet)
    while not Path("server.pid").exists():
        pass
print("* daemon started successfully", file=sys.stderr)
print("List of devices attached")
states = {{"nobody": [], "two": ["B1\tdevice", "B2\tdevice"], "stranger": ["B1\tno permissions (see udev)"]}}
(chosen,) = [states[word] for word in words if word in states] or [["B1\tdevice"]]
print("\n".join(chosen) + "\n")
"""


def make_environment(folder):
    """A whole environment of version 2.3.2 in ``folder``, with the stand-in for the toolkit in it."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site_packages,) = folder.glob("lib/python3.*/site-packages")
    for package in ("rknn-toolkit2", "onnx", "torch"):
        info = site_packages / f"{package.replace('-', '_')}-{VERSION}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {VERSION}\n")
    (site_packages / "rknn").mkdir()
    (site_packages / "rknn" / "__init__.py").write_text("")
    source = FAKE_API.format(log=str(LOGS / "small-fp16-2.3.2.log"), board_log=str(BOARD_LOG))
    (site_packages / "rknn" / "api.py").write_text(source)
    adb = adb_of(folder)
    adb.parent.mkdir(parents=True)
    adb.write_text(FAKE_ADB.format(python=folder / "bin" / "python"))
    adb.chmod(0o755)
    numpy_home = Path(np.__file__).parents[1]
    (site_packages / "zz-numpy.pth").write_text(f"{numpy_home}\n")
    python = ".".join(map(str, sys.version_info[:3]))
    environment = ToolkitEnvironment(VERSION, folder, python, importlib.metadata.version("torch"), str(numpy_home))
    write_state(environment)
    return environment


def adb_of(folder):
    """The toolkit's adb in an environment."""
    (site_packages,) = folder.glob("lib/python3.*/site-packages")
    return site_packages / "rknn" / "3rdparty" / "platform-tools" / "adb" / "linux-x86_64" / "adb"


def is_alive(pid):
    """Whether a process is there and no zombie."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def ends_soon(pid):
    """Whether a process that was told to end has ended, within five seconds."""
    for _ in range(100):
        if not is_alive(pid):
            return True
        time.sleep(0.05)
    return False
