"""What uses a learner's state: it classifies, draws and is calibrated. Knows no Kedro."""
