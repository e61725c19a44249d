"""Commands of the command line, a file a group; `genbench.cli` names them and imports them when they are called."""
