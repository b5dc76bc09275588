"""How many files and sockets this process may have open: a default of 1,024 would end a fleet at its 1,000th node."""

import resource

_MOST = 1 << 20


def raise_open_files() -> int:
    """Raises the soft limit to the hard one, which asks nobody's leave; how many that allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft if soft != resource.RLIM_INFINITY else _MOST
