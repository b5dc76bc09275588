"""What tests and the simulator share: a whole installation in one process."""
