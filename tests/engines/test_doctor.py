"""What the doctor reads of a real Docker."""

import pytest
from tests.engines.dockerd import Dockerd, needed

from aiwm.daemon.software import docker_at, docker_facts, find_software


@pytest.mark.parametrize("live_restore", [True, False])
def test_a_real_docker_says_who_it_is_and_whether_containers_outlive_it(*, live_restore: bool) -> None:
    needed()
    dockerd = Dockerd(live_restore=live_restore)
    try:
        dockerd.start()
        host = docker_at("", dockerd.environment)
        runtime, facts = find_software(host).runtime, docker_facts(host)
        assert runtime is not None
        assert facts is not None
        assert (runtime.type, facts.live_restore, "runc" in facts.runtimes) == ("docker", live_restore, True)
    finally:
        dockerd.close()
