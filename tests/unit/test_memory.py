"""Whether rows are held in memory."""

from audioclf import memory


def test_rows_are_kept_in_memory_if_they_fit() -> None:
    need = 1000 * 128 * 216 * 2
    assert memory.fits(1000, (128, 216), need)
    assert not memory.fits(1000, (128, 216), need - 1)
    kept, streamed_rows = (memory.choose(1000, (128, 216), need - short) for short in (0, 1))
    size = "1,000 training rows of 128 × 216 take 0.06 GB and may take 0.06 GB"
    assert (kept.in_memory, kept.words) == (True, f"{size}: held in memory")
    assert (streamed_rows.in_memory, streamed_rows.words) == (False, f"{size}: streamed from the shards")
