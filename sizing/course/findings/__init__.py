"""What a learner should have found with a calculator: one module per lesson, `FINDINGS` each.

The words are computed from the calculator at the setting that its button chooses.
"""
