"""The Python front: runs, and the verbs for networks and training loops of your own."""
