"""The local page over runs (`distill2edge ui`)."""
