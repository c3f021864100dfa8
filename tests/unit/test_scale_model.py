"""benchmarks/scale_model.py: its tables are those of docs/cluster.md, and its arithmetic is that of a calculator."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from audioclf import fetch, units
from benchmarks import scale_model
from benchmarks.scale_model import ARCHIVE, AUDIOSET, ESC50, Assumptions, estimate, extraction, limits, tagging

ROOT = Path(__file__).parents[2]
GIVEN = Assumptions()


def test_the_documentation_has_what_the_script_prints() -> None:
    assert f"\n\n{scale_model.tables(GIVEN)}\n\n" in (ROOT / "docs" / "cluster.md").read_text()


def test_flags_change_what_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["scale_model.py", "--cpu-node-usd-h", "0.7", "--vcpus", "8"])
    scale_model.main()
    assert capsys.readouterr().out == scale_model.tables(Assumptions(cpu_node_usd_h=0.7, vcpus=8)) + "\n"


def test_the_price_is_an_assumption_and_says_so() -> None:
    assumed = scale_model.tables(Assumptions(cpu_node_usd_h=0.123)).split("assumed, not measured")[1]
    assert "| price of a CPU node (m7i.4xlarge, spot) | 0.123 |" in assumed


def test_audioset_extracted_on_ten_nodes() -> None:
    """2e7 s are 4e6 times five seconds, at 950 a second and core, and 1.85e12 bytes at 81.5e6; on 160 cores."""
    got = limits(extraction(AUDIOSET), 10, GIVEN)
    assert got["CPU"] == pytest.approx((4_210.526 + 22_699.387) / 160, rel=1e-6)
    assert got["NIC"] == pytest.approx(1.85e12 / 7.8125e9)  # ten times 6.25 Gbit/s
    assert got["S3 requests"] == pytest.approx(363.636, rel=1e-5)  # two million GETs, 5,500 a second
    assert got["driver"] == pytest.approx(5_556 / 94)  # units of 360 clips, an hour of sound
    assert set(got) == {"CPU", "NIC", "S3 requests", "driver"}


def test_the_cost_of_audioset_extracted_on_ten_nodes() -> None:
    """683.6 s, and 300 more until the nodes end; two million GETs cost 80 cents, 5,556 PUTs 2.8."""
    got = estimate(extraction(AUDIOSET), 10, GIVEN)
    assert got.total_s == pytest.approx(300 + 20 + 363.636, rel=1e-5)
    assert got.usd == pytest.approx(3.5 * 983.636 / 3600 + 0.2 * 683.636 / 3600 + 0.80 + 0.02778, rel=1e-5)
    assert got.first == "S3 requests"


def test_a_copy_by_rubber_band_makes_cpus_the_limit() -> None:
    """4e6 copies of 0.257 / 2.22 s, above the 168.2 s of the originals' computing and receiving."""
    seconds = limits(extraction(AUDIOSET, copies=1), 10, GIVEN)["CPU"]
    assert seconds == pytest.approx(168.187 + 4e6 * 0.115766 / 160, rel=1e-4)
    assert estimate(extraction(AUDIOSET, copies=1), 10, GIVEN).first == "CPU"


def test_few_units_leave_cores_without_work() -> None:
    """2,000 clips in units of 62 are 33 units, whatever the nodes; their sound is 2.1 s of one core, its bytes 10.8."""
    work = extraction(ESC50)
    assert work.units == 33
    few = limits(work, 1000, GIVEN)
    assert few["units"] == pytest.approx((2_000 / 950 + 2_000 * 441_044 / 81.5e6) / 33)
    assert estimate(work, 1000, GIVEN).first == "start, then units"
    assert estimate(work, 1000, GIVEN).usd > 90 * estimate(work, 10, GIVEN).usd


def test_a_petabyte_is_three_million_hours() -> None:
    assert ARCHIVE.audio_s / 3600 == pytest.approx(1e15 / (48_000 * 2 * 3600), rel=1e-6)
    assert tagging(ARCHIVE).units == 6 * ARCHIVE.files
    assert tagging(ARCHIVE).gets == pytest.approx(1e15 / 2**22 + 6 * ARCHIVE.files)


def test_a_petabyte_in_one_prefix_is_up_to_the_driver_and_with_longer_units_to_the_cpus() -> None:
    """1.04e10 s at 874 s a second and core, 1e15 bytes at 81.5e6: 2.419e7 core seconds, 42 hours on 160 cores."""
    short, long = (estimate(tagging(ARCHIVE, unit_s), 10, GIVEN) for unit_s in (600, 1310))
    assert short.first == "driver"
    assert short.total_s == pytest.approx(320 + 6 * 2_893_519 / 94)
    assert long.first == "CPU"
    assert long.total_s == pytest.approx(320 + (1.0416668e10 / 874 + 1e15 / 81.5e6) / 160, rel=1e-6)


def test_gpus_take_the_network_and_cpus_the_windows() -> None:
    seconds = limits(tagging(ARCHIVE, use_gpu=True), 1000, GIVEN)
    assert seconds["GPU"] == pytest.approx(1.0416668e9 / 8_000, rel=1e-6)  # ten-second clips; four GPUs
    assert seconds["CPU"] == pytest.approx((1.0416668e9 * 0.006 + 1e15 / 81.5e6) / 16_000, rel=1e-6)


def test_prefixes_raise_the_request_rate() -> None:
    work = extraction(AUDIOSET)
    one, many = (limits(work, 10, replace(GIVEN, prefixes=n))["S3 requests"] for n in (1, 100))
    assert one == pytest.approx(100 * many)


def test_puts_count_where_they_are_slower_than_gets() -> None:
    """Two PUTs for each of the units of a collection whose every unit is one GET."""
    work = tagging(replace(AUDIOSET, files=1000, total_bytes=1e6, file_s=600))
    assert work.gets == work.units == 1000
    assert limits(work, 10, GIVEN)["S3 requests"] == pytest.approx(2 * 1000 / 3500)


def test_training() -> None:
    """Twenty million clips at 2,400 a second are 8,333 s."""
    got = scale_model.training(4, GIVEN)
    assert got.total_s == pytest.approx(320 + 8_333.33, rel=1e-5)
    assert got.usd == pytest.approx((3.2 * (8_653.33 + 300) + 0.2 * 8_653.33) / 3600, rel=1e-5)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(42, "42 s"), (119, "119 s"), (600, "10 min"), (7200, "2.0 h"), (90_000, "25.0 h"), (864_000, "10.0 days")],
)
def test_durations(seconds: float, words: str) -> None:
    assert scale_model.duration(seconds) == words


def test_sizes_agree_with_the_code() -> None:
    assert (fetch.WHOLE_BYTES, fetch.RANGE_BYTES) == (scale_model.WHOLE_BYTES, scale_model.RANGE_BYTES)
    assert (units.MAX_UNIT_SEGMENTS, units.MIN_UNIT_SEGMENTS, units.MIN_UNITS, units.MAX_UNIT_S) == (
        scale_model.MAX_UNIT_SEGMENTS, scale_model.MIN_UNIT_SEGMENTS, scale_model.MIN_UNITS, scale_model.MAX_UNIT_S,
    )  # fmt: skip
    # Read as text: to import it would take Ray. Pictures are float32; mn04 takes a column every 320 samples at 32 kHz.
    assert "\nUNIT_BYTES = 64 << 20\n" in (ROOT / "audioclf" / "pipelines" / "tag.py").read_text()
    assert math.floor((64 << 20) / (4 * 128 * 1000)) * 10 == scale_model.PICTURES_S
