"""The comparison of methods under equal conditions: the methods, their trials and the results."""
