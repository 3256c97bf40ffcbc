"""seqpair trains pairs of language models that differ in nothing but the objective."""

__version__ = "0.1.0.dev0"
