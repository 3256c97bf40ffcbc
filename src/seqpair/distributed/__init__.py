"""Several processes that train one model: who they are, and the module wrapped for them.

Must not know models, data or files. One process needs no process group. Entry points:
`world.start_world`, `parallel.wrap`, `parallel.no_sync`.
"""
