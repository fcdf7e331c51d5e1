"""What GGUF files hold: a bounds-checked reader, the model families, the vocabularies. Knows no stage."""
