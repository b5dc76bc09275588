"""Agent: an AI agent beside the models; the source's shape, kept whole until its own part is built."""

from aiwm.protocol.base import Timestamp
from aiwm.protocol.resources.base import Resource
from aiwm.protocol.states import AgentStatus


class Agent(Resource):
    agent_id: str
    name: str
    description: str
    role: str
    status: AgentStatus
    capabilities: list[str]
    node_id: str | None
    total_tasks: int
    completed_tasks: int
    failed_tasks: int
    average_response_time: float | None
    last_task: Timestamp | None
    last_heartbeat: Timestamp | None
    is_active: bool
    permissions: list[str]
    tags: list[str]
