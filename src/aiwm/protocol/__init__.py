"""Every message on every wire, as typed models: the words two processes agree on."""
