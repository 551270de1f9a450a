"""LangGraph threads: elements, checkpoints and writes below one container row each.

A checkpoint stands at parent ``thread digest + namespace digest`` and its own id, the writes of a
task behind it at ``checkpoint id + task digest``; elements stand at the thread digest and a number.
Each transaction that stores references locks the thread's row and compares its generation, which a
sweep changes, so no reference is stored to an element that was swept away. The row's ``head``
authenticates its counters, so no number is given out twice. Numbers begin at a random one: a
thread that was deleted and begun again has no element where its former life had one.
"""
