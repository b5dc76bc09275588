"""The audit log: who did what to what, kept in one chain that shows when somebody changed it."""
