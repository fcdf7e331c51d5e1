"""`python -m distill2edge`."""

from distill2edge.cli import main

if __name__ == "__main__":
    main(prog_name="distill2edge")
