"""The processes of a job: how they start, meet, agree, wait for one another, split rows, and end together."""
