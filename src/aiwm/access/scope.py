"""The policy's visibility as conditions of a store query, so that lists never load what the caller may not see."""

from aiwm.access.principal import Principal
from aiwm.infra.store.port import Any, Condition, Where


def scope(principal: Principal) -> tuple[Condition, ...]:
    """Conditions that keep a query of owned records to what the caller may see."""
    if principal.is_universe:
        return ()
    shared = Where("owner.orgId", "eq", None)
    if principal.org_id is None:
        return (shared,)
    return (Any((Where("owner.orgId", "eq", principal.org_id), shared)),)
