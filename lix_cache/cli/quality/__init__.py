"""What 'eval' and 'calibrate' are made of: labelled questions, a model, a stage, and what is shown."""
