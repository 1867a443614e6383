"""A randomized checker of kept answers: nobody reads what is older than a commit that he could know of."""
