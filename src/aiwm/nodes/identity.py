"""Whether a connecting daemon is the node's own or a copy of it: pure.

Each run of a daemon names itself by an `instance`. A daemon that was started again has a new one, and the old one never
returns. One that does return after another took its place is a second daemon with the same identity: the newest keeps
the node, and the other is refused for as long as it is connected, so that the two do not push each other out for ever.
"""

from datetime import datetime

from aiwm.nodes.records import NodeObservation
from aiwm.protocol.errors import Unauthenticated

MOST_REMEMBERED = 32


def claimed(seen: NodeObservation, instance: str | None, *, at: datetime) -> NodeObservation:
    """The node as `instance` takes it over; a client that names none changes nothing."""
    if instance is None or instance == seen.instance:
        return seen
    others = [each for each in (*seen.superseded, seen.instance) if each not in (None, instance)]
    back = instance in seen.superseded
    return seen.model_copy(
        update={
            "instance": instance,
            "superseded": others[-MOST_REMEMBERED:],
            "cloned_at": at if back else seen.cloned_at,
        }
    )


def check_instance(seen: NodeObservation, instance: str | None, *, connected: bool) -> None:
    """Raises `Unauthenticated` NODE_REPLACED for a daemon whose place a newer one has, which is `connected`."""
    if connected and instance in seen.superseded:
        raise Unauthenticated(
            "cannot connect: a newer daemon uses this node's identity; give this machine a token of its own",
            code="NODE_REPLACED",
        )
