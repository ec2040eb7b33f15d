"""What MiniStack lacks and our patterns need: one module a gap.

Each says why, in which version it was seen, and which private names it patches (PATCHES, checked
at start); close() closes it. Each is to be deleted on the day that stock MiniStack does the same.
"""
