"""The systems, one file each: what it is, where its weights are, and what its paper did and printed.

The function at the top of a file is the system, an expression of the parts in `baselines`. Below it stand its published
architectures (CONFIGURATIONS), files (FILES) and trained systems (RELEASES), which `baselines.files.catalogue` finds,
and its presets, each with the rows of `leaderboards/reported.csv` that it stands beside.
"""
