"""The laboratory: convex problems with their theory, tasks to train, benchmarks, and the figures of the documentation.

convex      problems whose constants are known, methods with their theorems, descents
training    tasks like those of the DEFT paper, trained in one process or on ranks
comparison  the small GPT trained on ranks, one exchange against another, and the record of it
bench       what a step costs and where its time goes; advice, measured
studies     charts and figures, made of runs of the rooms above
models, corpus            networks, tensor shapes and text to train on
averager, remote, ways    who averages; a function on real ranks; ways of averaging, by name
checks, records           refusals, and records as JSON
"""
