"""What each cut is said to save, against the NPU's cycle formula worked out by hand."""

import torch
from networks import probe, unet
from torch import nn

from edgelung.converters.pruning import compare_layers, layer_rows, prune


def layer_between(before, after, plane=16):
    """A convolution (in, out) whose input is made by another one, before and after."""

    def network(inside, outside):
        return nn.Sequential(nn.Conv2d(1, inside, 1), nn.Conv2d(inside, outside, 3, padding=1))

    return compare_layers(network(*before), network(*after), torch.zeros(1, 1, plane, plane))[1]


def test_cycles_bytes_and_verdicts():
    cut = layer_between((64, 64), (32, 32))
    before, after = cut.costs["INT8"]
    assert (before.cycles, after.cycles) == (256 * 2 * 9 * 2, 256 * 9)  # pixels, blocks of outputs, taps, of inputs
    assert (before.weight_bytes, after.weight_bytes) == (64 * 64 * 9, 32 * 32 * 9)
    assert (before.output_blocks, after.output_blocks) == (256 * 4, 256 * 2)
    fp16 = cut.costs["FLOAT16"]
    assert (fp16[0].cycles, fp16[1].cycles) == (256 * 4 * 9 * 2, 256 * 2 * 9)
    assert fp16[0].weight_bytes == 2 * before.weight_bytes
    assert cut.verdict("INT8") == cut.verdict("FLOAT16") == "time"
    assert (cut.channels_in, cut.channels_out) == ((64, 32), (64, 32))


def test_below_a_block_only_bytes_are_saved():
    assert layer_between((16, 16), (8, 8)).verdict("INT8") == "bytes"
    assert layer_between((16, 16), (8, 8)).verdict("FLOAT16") == "time"  # its output is one block less
    assert layer_between((16, 16), (16, 16)).verdict("INT8") == "neither"


def test_the_published_u_net_has_the_compilers_cycles():
    pruned = prune(unet(), probe(size=16).float(), ratio=0.5, round_to=16, plane=(512, 512))
    by_name = {layer.name: layer for layer in pruned.layers}
    assert len(by_name) == 13
    before, _ = by_name["unet.down_path.0.block.0"].costs["INT8"]
    assert before.cycles == 2_359_296  # the compiler's table
    total = sum(layer.costs["INT8"][0].cycles for layer in pruned.layers)
    assert 15.8e6 < total < 16.0e6  # the compiler's 15.9 Mcycles
    header, rows = layer_rows(pruned.layers, "INT8")
    assert len(rows) == 14 and {len(row) for row in rows} == {len(header)}
    assert rows[-1][3] == "117248 -> 38656"
    assert by_name["unet.last"].verdict("INT8") == "neither"
