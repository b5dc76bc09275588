"""Ports to the outside (store, queue, objects, tokens, secrets) and their implementations; no noun of the domain."""
