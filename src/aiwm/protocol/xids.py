"""What Xid errors of NVIDIA's driver mean, for the daemon that reads them and the controller that judges by them.

NVIDIA's list: docs.nvidia.com/deploy/xid-errors.
"""

XIDS_OF_LOST_GPUS = frozenset({48, 79})
"""These need the GPU reset or the machine restarted: a double-bit memory error, a GPU that has fallen off the bus."""

XIDS_OF_PROGRAMS = frozenset({13, 31, 43, 45, 68, 109})
"""What a program on the GPU does wrong, which the GPU survives; NVIDIA's plugin for Kubernetes ignores them too."""
