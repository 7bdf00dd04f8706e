"""Agreement, bootstrap intervals and calibration curves: statistics of labels and confidences."""
