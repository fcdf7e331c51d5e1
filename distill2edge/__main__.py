"""`python -m distill2edge`."""

from distill2edge.cli.main import main

if __name__ == "__main__":
    main(prog_name="distill2edge")
