"""The all-in-one's own node: registered once under the name `local`, its token kept where its daemon finds it."""

import os
from pathlib import Path

from aiwm.access.first_run import ADMIN
from aiwm.access.service import Users
from aiwm.infra.store.port import Query, Where
from aiwm.nodes.service import NodeService
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.resources.nodes import NodeCreate

NAME = "local"
_TOKEN_SECONDS = 365 * 86_400


async def ensure_local_node(nodes: NodeService, users: Users, token_file: Path) -> None:
    """Makes the node where it is missing, and writes a fresh token for it, 0600."""
    home = await _home(users)
    mine = (Where("name", "eq", NAME), Where("owner.orgId", "eq", home), Where("deletedAt", "eq", None))
    found, _ = await nodes.page(Query(mine, limit=1))
    if found:
        node_id = found[0].node_id
    else:
        admin = await users.by_username(ADMIN)
        by = admin.id if admin is not None else None
        node_id = (await nodes.create(NodeCreate(name=NAME), owner=Owner(org_id=home, user_id=by), by=by)).node_id
    token = nodes.token(nodes.record(node_id), _TOKEN_SECONDS).token
    token_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = token_file.with_suffix(f".{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(token)
    draft.replace(token_file)


async def _home(users: Users) -> str:
    """The organization that nobody made: the first run's, whatever it is called now.

    A node of that name in another one is not this machine, which must not start engines for it.
    """
    made_first = Query((Where("createdBy", "eq", None),), sort=("id",), limit=1)
    return (await users.organizations.find(made_first))[0].id
