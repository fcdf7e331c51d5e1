"""What makes a model write or give its distributions: transformers, llama.cpp, an endpoint."""
