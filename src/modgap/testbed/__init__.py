"""Make the testbed checkpoint from nothing: data, two phases of supervised training, examination,
model card.

`python -m modgap.testbed --out DIR`; see `run.pretrain`.
"""
