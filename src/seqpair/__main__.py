"""`python -m seqpair`, so that torchrun can start it."""

from seqpair.cli.app import main

if __name__ == "__main__":
    main()
