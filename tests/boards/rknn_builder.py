"""Synthetic .rknn files, in the layout that edgelung/boards/rknn_file.py describes."""

from __future__ import annotations

import json
import struct

NETWORK = b"\x10\0\0\0RKNN" + bytes(range(256)) * 4  # a FlatBuffer's root offset and identifier, then noise


def description(inputs=None, outputs=None, *, dtype="", version="2.3.2", platforms=("rk3588",)) -> dict:
    """The JSON at the end; inputs and outputs are name -> shape."""
    sides = {
        "input": {"slices": (1, 7, 512, 512)} if inputs is None else inputs,
        "output": {"probability": (1, 1, 512, 512)} if outputs is None else outputs,
    }
    tensors, graph = [], []
    for side, named in sides.items():
        for place, (name, shape) in enumerate(named.items()):
            graph.append(
                {"left": side, "left_tensor_id": place, "right": "norm_tensor", "right_tensor_id": len(tensors)}
            )
            kinds = {"qnt_method": "layer" if dtype else "", "qnt_type": dtype, "vx_type": dtype}
            tensors.append(
                {"dim_num": len(shape), "dtype": kinds, "size": list(shape), "tensor_id": len(tensors), "url": name}
            )
    return {
        "graph": graph,
        "input_num": len(sides["input"]),
        "norm_tensor": tensors,
        "norm_tensor_num": len(tensors),
        "output_num": len(sides["output"]),
        "target_platform": list(platforms),
        "version": version,
    }


def rknn_bytes(content: dict | bytes | None = None, *, network: bytes = NETWORK) -> bytes:
    """A whole file."""
    content = description() if content is None else content
    tail = content if isinstance(content, bytes) else json.dumps(content).encode()
    header = struct.pack("<8sQQ40s", b"RKNN\0\0\0\0", 6, len(network), b"")
    return header + network + struct.pack("<Q", len(tail)) + tail
