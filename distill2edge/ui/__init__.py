"""The local page over runs (`distill2edge ui`)."""

PORT = 8617
"""The port where none is named."""
