"""What is particular to each inference engine: its command line, its readiness, its words for failure."""
