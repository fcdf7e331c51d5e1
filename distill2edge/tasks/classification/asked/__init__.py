"""Language models that teach a classifier by what they answer."""
