"""The paper's experiments on anybody's photos and networks: one file a table or figure, run.py runs them."""
