"""A model's pass over many shards: made here, or shared out over workers, and the same wherever it is made."""
