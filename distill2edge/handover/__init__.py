"""What goes with a file that ships: its tokenizer as it was trained, how to use it, a program that needs little."""
