"""Jinja templates that come from elsewhere: sandboxed, and with an end in time and memory."""
