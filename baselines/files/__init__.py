"""From names and files to networks: what stands in files of weights and of arguments, and where they are.

`loading` makes a function of weights a model that is found by name; `catalogue` knows what all systems publish;
`cards` reads the descriptions of this project's own weights; `arguments` and its dialects say what arguments of other
repositories mean; `checkpoints` and `layouts` read files; `weights` hands out networks; `text` reads captions.
"""
