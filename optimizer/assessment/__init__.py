"""Bundles and endpoints against each other, by the sets, statistics and verdicts of the accuracy gate."""
