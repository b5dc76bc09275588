"""What every HTTP service has, whatever its nouns: errors, paging, limits, health, sockets."""
