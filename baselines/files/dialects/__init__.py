"""The argument names of the original repositories, one module each; `baselines.files.arguments` chooses among them."""
