"""Deployments: what users wish to run, what is seen to run, and the loop that closes the gap."""
