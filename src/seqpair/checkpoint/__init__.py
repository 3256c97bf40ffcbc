"""Checkpoints: what they say of themselves, how they are written, found, thinned, averaged, and the run's lock.

Must not know the training loop: it is handed tensors by name and JSON. Entry points:
`store.save_checkpoint`, `store.load_checkpoint`, `catalog.latest_valid`, `catalog.thin`, `soup.make_soup`,
`lock.lock_run`.
"""
