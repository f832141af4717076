"""Helpers of swanlab that scripts may import: none is needed here."""
