"""What is asked of systemd, of the kernel and of the keeper for an engine that is a process."""

import pytest

from aiwm.daemon.launchers.limits import memory_limit, rlimits, scoped
from aiwm.daemon.launchers.port import NO_LIMITS, Room

ARGV = ("/opt/tritonserver", "--http-port=8000")
SCOPE = ["/usr/bin/systemd-run", "--scope", "--quiet", "--collect", "-p", "TasksMax=4096"]


@pytest.mark.parametrize(
    ("room", "more"),
    [
        (NO_LIMITS, []),
        (Room(ram=0), []),
        (Room(ram=8192), ["-p", "MemoryMax=8192M"]),
        (Room(cpu_cores=1.5), ["-p", "CPUQuota=150%"]),
        (Room(cpu_cores=0.001), ["-p", "CPUQuota=1%"]),
        (Room(ram=512, cpu_cores=4), ["-p", "MemoryMax=512M", "-p", "CPUQuota=400%"]),
    ],
)
def test_a_scope_is_asked_for_exactly_what_the_replica_was_given(room: Room, more: list[str]) -> None:
    assert list(scoped("/usr/bin/systemd-run", ARGV, room)) == [*SCOPE, *more, "--", *ARGV]


@pytest.mark.parametrize(
    ("scope", "root", "more"),
    [(True, True, {}), (False, True, {}), (False, False, {"RLIMIT_NPROC": 32_768})],
)
def test_the_kernel_bounds_the_processes_of_whom_no_scope_does(
    *, scope: bool, root: bool, more: dict[str, int]
) -> None:
    assert rlimits(scope=scope, root=root) == {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": 65_536} | more


def test_the_keeper_bounds_memory_where_no_scope_does() -> None:
    assert memory_limit(Room(ram=512), scope=False) == 512 * 2**20
    assert memory_limit(Room(ram=512), scope=True) is None
    assert memory_limit(Room(ram=0), scope=False) is memory_limit(NO_LIMITS, scope=False) is None
