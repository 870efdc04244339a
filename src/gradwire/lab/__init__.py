"""The laboratory: convex problems with their theory, tasks to train, benchmarks, and the figures of the documentation.

convex      problems with known constants, methods with their theorems, descents
training    tasks like those of the DEFT paper, trained in one process or on ranks
comparison  the small GPT trained on ranks with one exchange after another, and the record of it
bench       the time of a training step and its parts; advice, and its predictions checked by measurements
scale       the time of a step with many workers, predicted from rehearsals
studies     charts and figures, made from runs of the packages above
models, corpus            networks, tensor shapes and text to train on
averager, remote, ways    averaging in one process or on ranks; a function run on real ranks; methods by name
checks, records           argument checks, and records as JSON
"""
