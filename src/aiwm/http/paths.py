"""Which paths carry raw bodies: blobs and inference go through as they are, unbounded, unbuffered and not kept."""

import re

_RAW = re.compile(r"(/api/v1)?/blobs/|/api/v1/deployments/[^/]+/inference(/|$)|/v[12](/|$)")


def takes_raw_body(path: str) -> bool:
    """Whether the limits of JSON requests do not apply to `path`."""
    return _RAW.match(path) is not None
