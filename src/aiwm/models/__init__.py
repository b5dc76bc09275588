"""Models: the registry, and the files behind it in the object store."""
