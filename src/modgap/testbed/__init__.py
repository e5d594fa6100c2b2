"""Make the testbed checkpoint from nothing.

The steps: data, two phases of supervised training, examination, model card. Run it with
`python -m modgap.testbed --out DIR`; see `run.pretrain`.
"""
