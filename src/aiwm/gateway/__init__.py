"""The gateway: inference in, engines out."""
