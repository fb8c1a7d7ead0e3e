"""A minimal node for every operator, version and element type, and the table of operators made of them.

``python -m catalogue`` writes ``docs/operators.md``; ``tests/catalogue`` compares the results of the same
nodes with those of others.
"""
