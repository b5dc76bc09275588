"""The policy's visibility as conditions of a store query, so that lists never load what the caller may not see."""

from aiwm.access.principal import Principal
from aiwm.infra.store.port import Any, Condition, Where


def scope(principal: Principal, *, shareable: bool = False) -> tuple[Condition, ...]:
    """Conditions that keep a query of owned records to what the caller may see; `shareable` as in the policy."""
    if principal.is_universe:
        return ()
    org_ids = () if principal.org_id is None else (principal.org_id,)
    own = Where("owner.orgId", "in", org_ids)
    return (Any((own, Where("owner.orgId", "eq", None))),) if shareable else (own,)
