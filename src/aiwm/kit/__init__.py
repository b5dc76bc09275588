"""What everything shares and nothing surprises: standard library only."""
