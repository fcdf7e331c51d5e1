"""From a device's budget to a recipe: what a student of each shape and type weighs, needs, and how fast it runs."""
