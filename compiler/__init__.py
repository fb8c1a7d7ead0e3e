"""From a model file to an execution plan."""
