"""What a user declares: tasks, and the words for what became of them.

Runs in: every process.
"""
