"""Reading an engine's numbers from its metrics page, without a library: a node stays light."""

from collections.abc import Collection


def samples(page: str, names: Collection[str]) -> dict[str, float]:
    """The values of `names` in a page of Prometheus's text format, summed over their labels; without what is absent."""
    found: dict[str, float] = {}
    for line in page.splitlines():
        if line.startswith("#"):
            continue
        name = line.partition("{")[0].partition(" ")[0]
        if name not in names:
            continue
        try:
            # Label values may hold anything, but after the last brace there is only the value, perhaps with a time.
            value = float(line.removeprefix(name).rpartition("}")[2].split()[0])
        except (ValueError, IndexError):
            continue
        found[name] = found.get(name, 0.0) + value
    return found
