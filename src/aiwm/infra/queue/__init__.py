"""Jobs between processes: one small port, BullMQ and a memory twin behind it."""
