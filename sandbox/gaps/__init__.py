"""What MiniStack lacks and our patterns need: one module a gap.

Each says why, in which version it was seen, and which private names it patches (PATCHES, checked
at start); close() closes it. tests/sandbox/test_gaps.py shows that stock MiniStack fails where ours
passes: delete a module on the day its test passes on stock.
"""
