"""Judge the features and the training of a run from its records and results alone, without models or images."""
