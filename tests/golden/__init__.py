"""The proof that a refactor changed no result: digests of graphs, plans and weights, recorded once and compared again.

    python -m tests.golden record FILE.json         with the code as it was
    python -m tests.golden check FILE.json          with the code as it is: prints what differs, exit status 1 if anything

    calls.py     every call of the library's API, and tables of renamed parameters: all there is to edit when names change
    zoo.py       architectures of the zoo: graph, plan, narrowed weights
    modes.py …   every mode and pruner on two small networks, trained on real digits

Invariant: what is recorded depends on no class name, no wording, no time, and on nothing drawn without a seed.
"""
