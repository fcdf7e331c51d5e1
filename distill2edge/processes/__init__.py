"""Several processes that train one model: who starts them, what they are given, and what they tell each other."""
