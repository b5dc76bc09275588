"""How processes of one installation hear each other at once, and agree on one among them."""
