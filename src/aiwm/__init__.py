"""AIWM: the control plane for AI on your own GPUs."""

__version__ = "0.1.0"
