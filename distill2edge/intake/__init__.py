"""Models that come in, from a hub, a directory, a GGUF or a package: checked, licensed, made one directory."""
