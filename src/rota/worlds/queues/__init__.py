"""Servers, sizes and predictions: the queues of queueing theory, checked against it."""
