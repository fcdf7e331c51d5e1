"""A recipe from start to end: the plan, the run, its directory, several seeds."""
