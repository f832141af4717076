"""Every performance claim of the project as a command: ``python -m benchmarks.NAME``. Each prints its own ratio."""
