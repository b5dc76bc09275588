"""What is asked of systemd and of the kernel for an engine's process, and what is said of one that wanted more."""

import signal

import pytest

from aiwm.daemon.launchers.limits import rlimits, scoped, short_of_memory
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
    [
        (True, True, {}),
        (False, True, {"RLIMIT_DATA": 512 * 2**20}),
        (False, False, {"RLIMIT_DATA": 512 * 2**20, "RLIMIT_NPROC": 32_768}),
    ],
)
def test_the_kernel_bounds_what_no_scope_does(*, scope: bool, root: bool, more: dict[str, int]) -> None:
    always = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": 65_536}
    assert rlimits(Room(ram=512), scope=scope, root=root) == always | more


def test_without_a_limit_the_memory_of_a_process_is_not_bounded() -> None:
    assert "RLIMIT_DATA" not in rlimits(NO_LIMITS, scope=False, root=True)
    assert "RLIMIT_DATA" not in rlimits(Room(ram=0), scope=False, root=True)


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("Traceback\nMemoryError\n", True),
        ("terminate called after throwing an instance of 'std::bad_alloc'", True),
        ("error: Cannot allocate memory (12)", True),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes", True),
        ("torch.OutOfMemoryError: CUDA out of memory.", False),
        ("ValueError: no such file", False),
    ],
)
def test_only_an_engine_that_says_it_lacked_memory_is_said_to(output: str, *, told: bool) -> None:
    said = short_of_memory(64, scope=False, number=None, output=output)
    assert said == (
        "after it was refused memory beyond its limit of 64 MiB, which resources.ram raises" if told else None
    )


def test_in_a_scope_the_kernels_kill_is_how_an_engine_ends_that_wants_too_much() -> None:
    said = short_of_memory(64, scope=True, number=signal.SIGKILL, output="")
    assert said == "probably for using more than its limit of 64 MiB, which resources.ram raises"
    assert short_of_memory(64, scope=True, number=signal.SIGSEGV, output="MemoryError") is None
