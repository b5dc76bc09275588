"""Nodes: GPU machines that dial out; who they are, whether they are there, and the channel to them."""
