"""Numbers of labelling: folds of vehicles, votes, calibrated probabilities, typical photos, audits."""
