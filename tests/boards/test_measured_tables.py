"""The estimator on the whole measured tables, where they lie beside the checkout; skipped elsewhere."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT.parent / "shared" / "facts"


@pytest.fixture(scope="module")
def benchmark():
    if not FOLDER.is_dir():
        pytest.skip(f"no measured tables at {FOLDER}")
    spec = importlib.util.spec_from_file_location("estimate_vs_measured", ROOT / "benchmarks/estimate_vs_measured.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def unet(benchmark):
    return benchmark.estimate_all(benchmark.read_unet(FOLDER / benchmark.UNET_FILE), "rk3588s")


@pytest.fixture(scope="module")
def logs(benchmark):
    return benchmark.estimate_all(benchmark.read_logs(FOLDER / benchmark.LOGS_FILE), "rk3588")


def totals(benchmark, rows):
    for source, part in benchmark.grouped(rows, lambda row: row.measured.source).items():
        measured = math.fsum(row.measured.us for row in part)
        low, high = (math.fsum(row.estimated.interval_us[side] for row in part) for side in (0, 1))
        yield source, measured, math.fsum(row.estimated.us for row in part), low, high


def test_both_unets_come_out_within_two_per_cent(benchmark, unet):
    found = list(totals(benchmark, unet))
    assert [round(measured) for _, measured, *_ in found] == [49079, 31536]
    for _, measured, estimated, low, high in found:
        assert estimated == pytest.approx(measured, rel=0.02)
        assert low < measured < high


def test_networks_that_the_constants_have_not_seen_lie_in_their_intervals(benchmark, logs):
    found = list(totals(benchmark, logs))
    assert len(found) == 3
    for source, measured, estimated, low, high in found:
        assert low < measured < high, source
        assert estimated == pytest.approx(measured, rel=0.25), source


def test_every_printed_cycle_count_is_the_formulas(benchmark, unet, logs):
    assert benchmark.same_cycles(unet) == (26, 26)
    assert benchmark.same_cycles(logs) == (33, 33)


def test_the_spreads_of_the_profiles_are_those_of_the_tables(benchmark, unet, logs):
    from edgelung.boards import get_board

    spreads = get_board("rk3588s").npu.spreads
    for family in ("convolution", "operator"):
        ratios = [row.ratio for row in unet if row.family == family and row.measured.layer.operator != "InputOperator"]
        spread = spreads["unet", family]
        assert spread.low <= min(ratios) < spread.low + 0.02
        assert spread.high - 0.02 < max(ratios) <= spread.high
        seen = [row for row in logs if row.family == family and (family[0] == "c" or row.estimated.bound == "memory")]
        assert benchmark.quantiles(seen) == pytest.approx(
            (spreads["logs", family].low, spreads["logs", family].high), abs=0.01
        )
