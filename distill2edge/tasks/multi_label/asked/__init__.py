"""A language model as the teacher of sets of labels."""
