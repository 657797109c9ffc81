"""The scheduler's office: accounts, queue policy, lease book, and one thin actor around them.

It alone spends the campaign's budgets. Everything but `actor.py` knows nothing of Ray.
"""
