"""Stages run in order; their artifacts in a content-addressed store. Knows no particular stage."""
