"""Facts told to people: one ordered stream for each user, an inbox, and the live hub."""
