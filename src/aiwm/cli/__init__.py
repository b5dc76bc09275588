"""The command line: every command is a few calls of the SDK and one way to show what came back."""
