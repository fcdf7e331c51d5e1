"""Packs: folders that run a verified file with no training stack, and prove where they run that they do so rightly."""
