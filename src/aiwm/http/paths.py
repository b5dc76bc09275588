"""Which paths carry raw bodies: blobs and inference go through as they are, unbounded, unbuffered and not kept."""

import re

_RAW = re.compile(r"(/api/v1)?/blobs/|/api/v1/deployments/[^/]+/inference(/|$)|/v[12](/|$)")


def takes_raw_body(path: str) -> bool:
    """Whether the limits of JSON requests do not apply to `path`."""
    return _RAW.match(path) is not None


def loggable(path: str) -> str:
    """`path` as a log may keep it: a blob's path ends in a token that opens it to anybody."""
    before, found, _ = path.partition("/blobs/")
    return f"{before}{found}…" if found and _RAW.match(path) else path
