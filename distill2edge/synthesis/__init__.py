"""Rows that a teacher makes: self-instruct, evolved instructions, instructions for human texts."""
