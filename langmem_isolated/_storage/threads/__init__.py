"""LangGraph threads: elements, checkpoints and writes below one container row each.

A checkpoint stands at parent ``thread digest + namespace digest`` and its own id, the writes of a
task behind it at ``checkpoint id + task digest``; elements stand at the thread digest and a number.
Each transaction that stores references locks the thread's row and compares its generation, which a
sweep changes, so no reference is stored to an element that was swept away. The row's MAC
authenticates its counters, so no number is given out twice, and its birth is in the associated data
of everything below: a thread that was deleted and begun again opens nothing of its former life.
"""
