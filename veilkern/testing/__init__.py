"""One table of the ops for all that tries them: tests, benchmarks, tuning, the resource report and the fuzzer.

`TABLE` (table.py) holds an entry for each op of `veilkern.ops`; ops/<stem>.py declares it; entry.py says what an entry
is; compare.py says when results agree; making.py makes tensors. Nothing that protects photos imports this room.
"""
