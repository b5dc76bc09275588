"""Where files live: one small port, a local folder and S3 behind it."""
