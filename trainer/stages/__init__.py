"""One file per stage. A stage says what a batch is, what its loss is and how it is judged; loop.py does the rest.

Stages do not import one another.
"""
