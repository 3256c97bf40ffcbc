"""Several processes that train one model: who they are, and the module wrapped for them.

One process needs no process group.
"""
