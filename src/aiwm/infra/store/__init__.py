"""Where records live: one small port, SQLite and MongoDB behind it."""
