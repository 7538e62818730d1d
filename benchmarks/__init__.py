"""Measurements of the SDK on the machine at hand; see README.md beside this file."""
