"""What a machine and its control groups allow."""

from pathlib import Path

import pytest

from audioclf import machine


def test_the_least_of_memory_and_limits_is_dealt_to_the_workers() -> None:
    assert machine.available(64_000, []) == 64_000
    assert machine.available(64_000, [10**18, 16_000], workers=4) == 4_000
    assert 0 < machine.available(machine.physical_bytes(), machine.cgroup_memory()) <= machine.physical_bytes()


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "5000"}, [5000]),
        ("0::/a/b\n", {"memory.max": "max", "a/memory.max": "3000", "a/b/memory.max": "max"}, [3000]),
        ("0::/outside/id\n", {"memory.max": "7000"}, [7000]),
        ("4:cpu,cpuacct:/x\n3:memory:/x\n0::/\n", {"memory/x/memory.limit_in_bytes": "9000"}, [9000]),
        ("0::/\n", {}, []),
    ],
)
def test_limits_of_control_groups(tmp_path: Path, cgroup: str, files: dict[str, str], expected: list[int]) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert machine.cgroup_memory(tmp_path) == expected


def test_without_control_groups_there_are_no_limits(tmp_path: Path) -> None:
    assert machine.cgroup_memory(tmp_path) == []
