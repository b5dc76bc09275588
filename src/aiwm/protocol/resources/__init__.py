"""The resources of the REST API: what is returned (views) and what is accepted (params)."""
