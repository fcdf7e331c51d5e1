"""Models on disk, as Hugging Face directories: configuration, weights, kind. Knows no recipe."""
