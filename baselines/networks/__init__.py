"""Networks, built from the one vocabulary of blocks in `blocks`."""
