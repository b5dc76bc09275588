"""Ways to run an engine on this machine."""
