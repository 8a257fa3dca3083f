"""Boards are found by what the kernel says of them."""

import pytest

from edgelung.boards import BOARDS, detect_board, get_board
from edgelung.errors import InputError


@pytest.mark.parametrize(
    ("compatible", "board"),
    [
        (b"radxa,rock-5b\0rockchip,rk3588\0", "rk3588"),
        (b"vendor,board\0rockchip,rk3588s\0rockchip,rk3588\0", "rk3588s"),
        (b"orangepi,5\0rockchip,rk3588s\0", "rk3588s"),
        (b"raspberrypi,4-model-b\0brcm,bcm2711\0", "onnxruntime"),
    ],
)
def test_detection(tmp_path, compatible, board):
    file = tmp_path / "compatible"
    file.write_bytes(compatible)
    assert detect_board(file).name == board


def test_no_device_tree_is_a_plain_cpu(tmp_path):
    assert detect_board(tmp_path / "absent").platform is None


def test_rk3588_and_rk3588s_share_compiled_models():
    assert get_board("rk3588").platform == get_board("rk3588s").platform == "rk3588"


def test_an_unknown_target_lists_the_known_ones():
    with pytest.raises(InputError, match="unknown target 'rk9999'; known targets: onnxruntime, rk3588, rk3588s"):
        get_board("rk9999")
    assert all(name == board.name for name, board in BOARDS.items())


def test_both_npus_are_described_and_differ_in_their_memory_clock():
    boards = [get_board(name) for name in ("rk3588", "rk3588s")]
    assert [board.npu.ddr_mhz for board in boards] == [2112, 1560]
    assert len(set(boards)) == 2
    for board in boards:
        assert board.npu.npu_mhz == 1000
        assert 10 < board.npu.bandwidth_gb_s < 12
        assert all(cost.read_ns + cost.write_ns >= 0 for cost in board.npu.operators.values())
        for (table, _), spread in board.npu.spreads.items():
            assert 0 < spread.low < 1 < spread.high, table
    assert get_board("onnxruntime").npu is None
