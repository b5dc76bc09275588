"""The node daemon: dials out to the controller and runs engines on this machine."""
