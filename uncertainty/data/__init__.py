"""From a data set to token ids and completion masks."""
