"""What `plan` reckons with: the sizes of a recipe's work, the machine's speed, and what each kind of stage costs."""
