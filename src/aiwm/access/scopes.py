"""What an API key's scopes allow, whatever the roles of its user: pure, asked wherever roles are."""

from aiwm.access.principal import Principal
from aiwm.protocol.errors import Denied

INFERENCE, MANAGE, MODEL = "inference", "manage", "model:"
USE_INFERENCE = "inference.use"


def allow(scopes: frozenset[str] | None, permission: str) -> bool:
    """Whether they reach to what needs `permission`; no scopes at all are a whole sign-in."""
    if scopes is None or MANAGE in scopes:
        return True
    return permission == USE_INFERENCE and any(each == INFERENCE or each.startswith(MODEL) for each in scopes)


def check_whole(who: Principal) -> None:
    """Raises `Denied` for a key that is for something narrower than what every signed-in user may do."""
    if who.scopes is not None and MANAGE not in who.scopes:
        raise Denied("cannot do this: the scopes of your API key do not reach to it", code="SCOPE_MISSING")


def allow_deployment(who: Principal, org_id: str | None, name: str) -> bool:
    """Whether the caller's scopes let it use the deployment `name` of `org_id`.

    `model:<name>` is a deployment of the user's own organization, `model:<orgId>/<name>` of another.
    """
    if who.scopes is None or not who.scopes.isdisjoint({MANAGE, INFERENCE}):
        return True
    own = org_id is not None and org_id == who.org_id
    return f"{MODEL}{org_id or ''}/{name}" in who.scopes or (own and f"{MODEL}{name}" in who.scopes)
