"""Composition roots: each process puts its parts together here and nowhere else."""
