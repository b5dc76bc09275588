"""A process takes as many open files as it is allowed."""

import resource

from aiwm.kit.open_files import raise_open_files


def test_the_soft_limit_rises_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        allowed = raise_open_files()
        assert allowed > 256
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (allowed, hard)
        assert raise_open_files() == allowed
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
