"""What every room may use: files, processes, words and figures of a console. Knows no model and no recipe."""
