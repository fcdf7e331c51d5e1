"""Verifiers: what a teacher wrote is checked before it trains a student. A module per kind, behind `base.Verifier`."""
