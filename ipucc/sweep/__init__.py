"""The study of what sparsity buys: one model compiled over a grid of targets, blocks and densities.

`grid` says which points there are, `measure` compiles one, `labelled` judges a graph on labelled data, `journal` keeps
what was done, `local` and `cluster` compute points in other processes, `chart` draws them.
"""
