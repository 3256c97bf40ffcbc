"""The data: where text comes from, its tokens on disk, and the order in which training reads them."""
