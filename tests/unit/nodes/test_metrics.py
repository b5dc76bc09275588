"""Which nodes Prometheus gets from which controller, and how they are written."""

from prometheus_client import CollectorRegistry, generate_latest
from tests.unit.nodes.node_builders import a_record, gpu, online

from aiwm.nodes.metrics import NodeCollector
from aiwm.nodes.presence import Presence, Session
from aiwm.nodes.records import NodeObservation, NodeRecord


def exposed(fleet: list[tuple[NodeRecord, NodeObservation]], *sessions: Session) -> list[str]:
    """The lines of samples."""
    presence, registry = Presence(), CollectorRegistry()
    for session in sessions:
        presence.opened(session)
    registry.register(NodeCollector(lambda: fleet, presence))
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_a_node_that_another_controller_holds_is_shown_there_and_only_counted_here() -> None:
    fleet = [(a_record(), online(gpu("0", temperature=50), cpu_utilization=10))]
    elsewhere = exposed(fleet, Session("node-1", "s", 1, holder="controller-2"))
    assert elsewhere == exposed(fleet)
    assert not any("node-1" in line for line in elsewhere)
    assert 'aiwm_nodes{status="online"} 1.0' in elsewhere
    here = exposed(fleet, Session("node-1", "s", 1))
    assert 'aiwm_node_up{node="gpu-1",node_id="node-1"} 1.0' in here
    assert 'aiwm_node_gpu_temperature_celsius{gpu="0",node="gpu-1",node_id="node-1",uuid=""} 50.0' in here


def test_a_node_that_is_away_is_down_everywhere_and_has_no_old_measurements() -> None:
    fleet = [(a_record(), NodeObservation(id="node-1", cpu_utilization=10, gpu_devices=[gpu("0", temperature=50)]))]
    assert [line for line in exposed(fleet) if "node-1" in line] == ['aiwm_node_up{node="gpu-1",node_id="node-1"} 0.0']


def test_names_with_quotes_do_not_break_the_text() -> None:
    fleet = [(a_record(name='a "b"'), NodeObservation(id="node-1"))]
    assert r'aiwm_node_up{node="a \"b\"",node_id="node-1"} 0.0' in exposed(fleet)
