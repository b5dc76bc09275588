"""Any image, or where the operator allows it any command, that serves HTTP: AIWM knows nothing of what is inside."""

import re
from pathlib import Path

from aiwm.daemon.engines.base import EVERYWHERE, Address, EnginePlan, Listen, Ports, Trial, Verdict
from aiwm.protocol.errors import Invalid
from aiwm.protocol.node_channel import DeployCommand, EngineNumbers

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PORT_TAKEN = re.compile(r"address already in use|EADDRINUSE|port is already allocated", re.IGNORECASE)


class CustomEngine:
    """Learns from HOST and PORT where to listen and from MODEL_DIR where its model is; its health path is its word.

    `commands` is the operator's leave to run programs on the machine itself.
    """

    def __init__(self, *, commands: bool) -> None:
        self._commands = commands

    def version(self) -> str | None:
        return None

    def prepare(
        self,
        order: DeployCommand,
        artifact: Path,
        workspace: Path,  # noqa: ARG002 - nothing is laid out for what is not known
        ports: Ports,
        address: Address,
    ) -> EnginePlan:
        if order.image is None:
            self._check_command(order.engine_args)
        inside = order.port if order.image else None
        variables = {
            **order.environment_variables,
            "PORT": str(inside or ports.http),
            "HOST": EVERYWHERE if order.image else address.bind,
            "MODEL_DIR": str(artifact),
        }
        return EnginePlan(
            argv=tuple(order.engine_args),
            environment=variables if order.image else {**variables, "PATH": _SYSTEM_PATH},
            ready=(f"http://{address.local}:{ports.http}{order.health_path or '/'}",),
            image=order.image,
            listens=(Listen(ports.http, inside=inside, abroad=True),),
        )

    def _check_command(self, arguments: list[str]) -> None:
        if not self._commands:
            raise Invalid(
                "cannot run a command: this node runs images only; set image, or have its operator allow commands with "
                "AIWM_CUSTOM_COMMANDS=true",
                code="COMMAND_INVALID",
            )
        if not arguments:
            raise Invalid(
                "cannot start it: there is neither an image nor a command; set image, or engineArgs to a program "
                "and its arguments",
                code="COMMAND_INVALID",
            )

    async def try_out(self, order: DeployCommand, base: str) -> Trial:  # noqa: ARG002 - as above
        return Trial(Verdict.UNTRIED, "what a custom engine takes is not known")

    def numbers(self, order: DeployCommand, page: str) -> EngineNumbers:  # noqa: ARG002 - as above
        return EngineNumbers()

    def explain(self, log: str) -> str | None:
        """The last line it wrote, which is as good a guess as any."""
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        return lines[-1] if lines else None

    def port_taken(self, log: str) -> bool:
        return _PORT_TAKEN.search(log) is not None
